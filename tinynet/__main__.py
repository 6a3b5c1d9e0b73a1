"""``python -m tinynet``"""

import sys

from tinynet.cli import main

sys.exit(main())
