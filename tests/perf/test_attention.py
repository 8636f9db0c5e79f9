import pytest

from muskie_jax.models.attention import Attention
from muskie_jax.perf import attention


def test_every_shape_is_timed_with_every_kernel(capsys):
    attention.main(["--shapes=2x20x2x16,1x8x1x8", "--kernels=xla"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["shape", "xla,", "ms"]
    assert [row.split()[0] for row in rows] == ["2x20x2x16", "1x8x1x8"]
    assert all(float(row.split()[1]) > 0 for row in rows)


def test_calls_with_more_work_take_longer():
    attend = Attention("xla")
    small, large = (attention.milliseconds(attend, shape) for shape in ((1, 16, 1, 8), (8, 128, 4, 32)))
    assert large > 3 * small


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--shapes=2x20x2", "--shapes has '2x20x2', but a shape is"),
        ("--shapes=2x0x2x8", "--shapes has '2x0x2x8', but a shape is"),
        ("--kernels=flash", "attention='flash' needs a GPU"),
        ("--kernels=fast", "'fast'"),
    ],
)
def test_mistakes_are_named(flag, message, capsys):
    with pytest.raises(SystemExit):
        attention.main(["--kernels=xla", flag])
    assert message in capsys.readouterr().err
