"""Optimizers and schedules: PyTorch's numbers over 20 steps in float64; where it has none, the paper's formula."""

import numpy as np
import pytest

import tinynet as tn
from tinynet import schedules

P, STEPS = 37, 20
RNG = np.random.default_rng(0)
THETA = RNG.standard_normal(P)
GRADIENTS = RNG.standard_normal((STEPS, P)) * 10.0 ** RNG.uniform(-6, 0, P)  # from 1e-6 to 1

PAIRS = [
    (tn.SGD(0.1), "SGD", {"lr": 0.1}),
    (tn.SGD(0.1, l2=0.2), "SGD", {"lr": 0.1, "weight_decay": 0.2}),
    (tn.SGD(0.1, 0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    (tn.SGD(0.1, 0.9, nesterov=True, l2=0.01), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (tn.Adagrad(), "Adagrad", {}),
    (tn.Adagrad(0.1, l2=0.1), "Adagrad", {"lr": 0.1, "weight_decay": 0.1}),
    (tn.RMSprop(), "RMSprop", {}),
    (tn.RMSprop(0.02, momentum=0.9, l2=0.1), "RMSprop", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    (tn.Adam(), "Adam", {}),
    (tn.Adam(0.1, 0.8, 0.99, 1e-4, l2=0.1), "Adam", {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}),
    (tn.AdamW(), "AdamW", {}),
    (tn.AdamW(0.1, weight_decay=0.3), "AdamW", {"lr": 0.1, "weight_decay": 0.3}),
    (tn.NAdam(), "NAdam", {}),
    (tn.NAdam(0.05, 0.8, momentum_decay=0.1, l2=0.1), "NAdam",
     {"lr": 0.05, "betas": (0.8, 0.999), "momentum_decay": 0.1, "weight_decay": 0.1}),
    (tn.NAdam(0.05, weight_decay=0.1), "NAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
]  # fmt: skip


def run(optimizer, ops, dtype="float64"):
    theta = ops.xp.asarray(ops.asarray(THETA, dtype), copy=True)
    state = optimizer.init(theta, ops)
    for t, g in enumerate(GRADIENTS):
        optimizer.step(theta, ops.asarray(g, dtype), state, t, ops)
    return ops.to_numpy(theta)


@pytest.mark.parametrize(("optimizer", "name", "options"), PAIRS, ids=[repr(p[0]) for p in PAIRS])
def test_pytorch_s_numbers(optimizer, name, options, ops):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    theta = torch.tensor(THETA, requires_grad=True)
    other = getattr(torch.optim, name)([theta], **options)
    torch.set_default_dtype(torch.float64)  # or NAdam keeps its product of weights in float32
    try:
        for g in GRADIENTS:
            theta.grad = torch.tensor(g)
            other.step()
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(run(optimizer, ops), theta.detach().numpy(), rtol=1e-12)


@pytest.mark.double
def test_lion_is_the_paper_s(ops):
    theta, m, lr, decay = THETA.copy(), np.zeros(P), 0.01, 0.1
    for g in GRADIENTS:  # Chen et al. 2023, algorithm 2
        c = 0.9 * m + 0.1 * g
        theta = theta - lr * (np.sign(c) + decay * theta)
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(run(tn.Lion(lr, weight_decay=decay), ops), theta, rtol=1e-12)


# numba's formulas, each compiled: those of every rule run in float32 in test_capture.py
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("numba", "strict:CPU_DEVICE", "torch")]


@pytest.mark.parametrize(
    "ops", ["numpy", "strict:device2", *SLOW, pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize("optimizer", [p[0] for p in PAIRS], ids=repr)
def test_float32_stays_float32(optimizer, ops):
    theta = run(optimizer, ops, "float32")
    assert theta.dtype == np.float32
    assert np.isfinite(theta).all()


@pytest.mark.parametrize(
    ("mine", "name", "options"),
    [
        (schedules.Constant(0.3), "ConstantLR", {"factor": 1.0}),
        (schedules.Step(0.3, 4, 0.5), "StepLR", {"step_size": 4, "gamma": 0.5}),
        (schedules.Exponential(0.3, 0.8), "ExponentialLR", {"gamma": 0.8}),
        (schedules.Cosine(0.3, 20, 0.1), "CosineAnnealingLR", {"T_max": 20, "eta_min": 0.1}),
        (schedules.OneCycle(0.3, 20), "OneCycleLR", {"max_lr": 0.3, "total_steps": 20}),
        (schedules.OneCycle(0.3, 33, 0.5, 10.0, 100.0), "OneCycleLR",
         {"max_lr": 0.3, "total_steps": 33, "pct_start": 0.5, "div_factor": 10.0, "final_div_factor": 100.0}),
    ],
)  # fmt: skip
def test_schedules_are_pytorch_s(mine, name, options):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    other = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    for step in range(options.get("total_steps", 20)):
        assert mine(step) == pytest.approx(other.get_last_lr()[0], rel=1e-12), step
        optimizer.step()
        if step + 1 < options.get("total_steps", 21):
            other.step()


def test_schedules_by_hand():
    warm = schedules.Warmup(4, schedules.Exponential(1.0, 0.5))
    assert [warm(t) for t in range(7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.25]
    assert schedules.Warmup(2, 0.5)(10) == 0.5
    assert schedules.InverseSquareRoot(0.3, 100.0)(300) == 0.15
    assert schedules.Cosine(0.3, 10)(10) == schedules.Cosine(0.3, 10)(1000) == 0.0
    assert all(schedules.OneCycle(1.0, n)(t) >= 0 for n in (1, 2, 3, 4) for t in range(6))


def test_whole_numbers_are_those_of_the_same_run():
    """A checkpoint compares the text of an optimizer."""
    whole, real = (tn.AdamW(kind(1), weight_decay=kind(2), epsilon=kind(1)) for kind in (int, float))
    assert repr(whole) == repr(real)


@pytest.mark.parametrize(("slots", "wanted"), [((), "(theta,)"), (("v",), "(theta, v)")])
def test_a_rule_gives_theta_and_slots(slots, wanted, ops):
    rule = type("Own", (tn.optim.Optimizer,), {"slots": slots, "rule": lambda self, xp, theta, *rest: theta})(0.1)
    theta = ops.zeros((3,), ops.dtype("float32"))
    with pytest.raises(TypeError) as e:
        rule.step(theta, theta, rule.init(theta, ops), 0, ops)
    assert str(e.value) == f"Own.rule does not give theta and its slots: return {wanted}"


def test_a_schedule_moves_the_rate():
    host = tn.get_backend("numpy")
    theta = np.zeros(1)
    rates = (1.0, 0.1, 0.01)
    for t in range(3):
        tn.SGD(lambda t: rates[t]).step(theta, np.ones(1), {}, t, host)
    assert theta[0] == pytest.approx(-1.11)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (lambda t: -0.1, "lr -0.1 at step 1100 is out of range: a schedule gives a finite number of at least 0"),
        (lambda t: None, "lr None at step 1100 is out of range: a schedule gives a finite number of at least 0"),
        (schedules.Warmup(100, schedules.Exponential(0.1, 3)),
         "lr inf at step 1000 is out of range: a schedule gives a finite number of at least 0"),
        (schedules.OneCycle(0.1, 9, end=5e-324),
         "lr nan at step 1100 is out of range: a schedule gives a finite number of at least 0"),
    ],
)  # fmt: skip
def test_a_schedule_gives_rates(schedule, said):
    """A negative rate climbed, in silence; 0.1 * 3**1000 was an OverflowError."""
    with pytest.raises(ValueError) as e:
        tn.Adam(schedule).numbers({}, 1100)
    assert str(e.value) == said


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_read_only_vector_is_an_error(backend):
    """A kernel of numba wrote to it all the same; to one that is mapped from a file, the process ended."""
    ops = tn.get_backend(backend)
    theta = np.ones(P, "float32")
    theta.setflags(write=False)
    sgd = tn.SGD(0.1)
    for write in (lambda: sgd.step(theta, np.ones_like(theta), {}, 0, ops), lambda: ops.clip_norm(theta, 0.1)):
        with pytest.raises(ValueError, match="read-only"):
            write()
    assert (theta == 1).all()


def test_a_gradient_of_another_shape(ops):
    """The value of a loss, in place of its gradient, moved all weights alike, in silence."""
    theta, adam = ops.asarray(THETA, "float32"), tn.Adam()
    for shape in ((), (1,), (P, 1)):
        with pytest.raises(ValueError, match=r"^gradient \(.*\) does not fit theta: expected \(37,\)$"):
            adam.step(theta, ops.asarray(np.ones(shape), "float32"), adam.init(theta, ops), 0, ops)


def test_whole_numbers_take_no_steps(ops):
    """Each step was cut off to whole numbers, in silence."""
    said = "^theta of dtype .*int64 cannot take steps: give a vector of a floating dtype$"
    with pytest.raises(TypeError, match=said):
        tn.Adam().init(ops.asarray([3, -2]), ops)


def test_clipping_is_pytorch_s(ops):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    for bound in (0.1, 100.0):
        g = ops.xp.asarray(ops.asarray(THETA), copy=True)
        norm = ops.clip_norm(g, bound)
        t = torch.tensor(THETA, requires_grad=True)
        t.grad = torch.tensor(THETA)
        assert float(norm) == pytest.approx(torch.nn.utils.clip_grad_norm_([t], bound).item(), rel=1e-13)
        np.testing.assert_allclose(ops.to_numpy(g), t.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tn.Adam(-1.0), "Adam lr -1.0 is out of range: give a finite number of at least 0, or step -> rate"),
        (
            lambda: tn.Adam("fast"),
            "Adam lr 'fast' is out of range: give a finite number of at least 0, or step -> rate",
        ),
        (lambda: tn.Adam(l2="a"), "Adam l2 'a' is out of range: give a finite number of at least 0"),
        (lambda: schedules.Step("a", 1), "Step rate 'a' is out of range: give a finite number of at least 0"),
        (lambda: tn.Adam(beta1=1.0), "Adam beta1 1.0 is out of range: give a number in [0, 1)"),
        (lambda: tn.SGD(0.1, 1.5), "SGD momentum 1.5 is out of range: give a number in [0, 1)"),
        (lambda: tn.SGD(0.1, nesterov=True), "SGD nesterov=True needs a momentum: give one in (0, 1)"),
        (lambda: tn.Lion(l2=-1.0), "Lion l2 -1.0 is out of range: give a finite number of at least 0"),
        (lambda: tn.SGD(0.1, 0.9, "yes"), "SGD nesterov 'yes' is neither True nor False"),
        (lambda: schedules.Warmup(3, "a"), "Warmup then 'a' is out of range: give a finite number of at least 0"),
        (lambda: schedules.Cosine(0.1, 9, -1), "Cosine final -1 is out of range: give a finite number of at least 0"),
        (lambda: schedules.Cosine(0.1, 0), "Cosine steps 0 is out of range: give a positive number"),
        (lambda: schedules.Step(float("nan"), 1), "Step rate nan is out of range: give a finite number of at least 0"),
    ],
)
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError)) as e:
        make()
    assert str(e.value) == said
