"""The network of the tutorial that this library grew out of: four rows, four hidden units, 1500 steps.

Every neuron is ``sigmoid(x @ w)``, without a bias. The error is the sum of squares, the gradient that of all four rows
at once, the learning rate 1. Run it: ``python examples/first_network.py``
"""

import tinynet as tn
from tinynet.initializers import Uniform

X = [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
Y = [[0.0], [1.0], [1.0], [0.0]]  # whether exactly one of the first two inputs is 1


def first_network(seed: int = 0, steps: int = 1500, backend: str = "numpy") -> tn.Model:
    """The network, trained."""
    net = tn.Sequential(
        tn.Dense(4, bias=False, init=Uniform(0.0, 1.0)),
        tn.Sigmoid(),
        tn.Dense(1, bias=False, init=Uniform(0.0, 1.0)),
        tn.Sigmoid(),
    )
    model = tn.Model(net, n_in=3, seed=seed, dtype="float64", backend=backend)
    model.fit((X, Y), loss=tn.SumSquaredError(), optimizer=tn.SGD(1.0), batch_size=4, epochs=steps, shuffle=False)
    return model


def main() -> None:
    model = first_network()
    print("prediction   fact")
    for (prediction,), (fact,) in zip(model.predict(X).tolist(), Y, strict=True):
        print(f"{prediction:10.3f}   {fact:4.0f}")


if __name__ == "__main__":
    main()
