"""The notebook runs from its first cell to its last and shows every picture."""

import base64
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, write_scene
from muskie_jax.interop.save import save_pretrained
from muskie_jax.models.muskie import build_model
from muskie_jax.viz.view_sheet import LABEL_WIDTH, MARGIN

MISSING = 'no notebook packages: python -m pip install -e ".[notebook]" -c constraints.txt'
nbformat = pytest.importorskip("nbformat", reason=MISSING)
nbclient = pytest.importorskip("nbclient", reason=MISSING)
kernelspec = pytest.importorskip("ipykernel.kernelspec", reason=MISSING)

NOTEBOOK = ROOT / "notebooks" / "features.ipynb"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "photos" / "maryrose"  # not part of the repository
KERNEL = "this-python"  # a unique name, so that no kernel of another Python is used
SIZE, VIEWS = 64, 4  # pixels: 4 x 4 patches per view

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a folder with weights of the smallest network, untrained."""
    model = build_model("nano")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)))["params"]
    folder = tmp_path_factory.mktemp("weights") / "nano"
    save_pretrained(folder, model, params)
    return folder


@pytest.fixture
def run_notebook(weights, tmp_path, monkeypatch):
    """Returns a function that runs the notebook in its folder, as Jupyter does: cell id -> outputs."""
    kernelspec.write_kernel_spec(tmp_path / "kernels" / KERNEL)  # runs sys.executable
    settings = {
        "JUPYTER_PATH": tmp_path,
        "JUPYTER_RUNTIME_DIR": tmp_path / "runtime",
        "IPYTHONDIR": tmp_path / "ipython",
        "MUSKIE_WEIGHTS": weights,
        "MUSKIE_SIZE": SIZE,
    }

    def run(photos):
        for name, value in (settings | {"MUSKIE_PHOTOS": photos}).items():
            monkeypatch.setenv(name, str(value))
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        client = nbclient.NotebookClient(notebook, timeout=120, kernel_name=KERNEL, resources=where)
        client.execute()  # raises the exception of a cell
        return {cell.id: cell.get("outputs", []) for cell in notebook.cells}

    return run


def text_of(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def picture_of(outputs):
    """Returns the only picture of a cell: uint8 (height, width, 3)."""
    (data,) = [output.data for output in outputs if output.output_type == "display_data"]
    assert [kind for kind in data if kind.startswith("image/")] == ["image/png"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))


def check(cells, width):
    """Checks what all runs have in common, given the width of a view."""
    scale = 2  # sheets enlarge views to 128 pixels
    columns = LABEL_WIDTH + VIEWS * (scale * width + MARGIN)
    rows = {"views": 1, "features": 2, "reconstruction": 4}
    for name, count in rows.items():
        picture = picture_of(cells[name])
        assert picture.shape == (count * (scale * SIZE + MARGIN) + 3 * MARGIN, columns, 3)
        for row in range(count):
            for view in range(VIEWS):
                left, top = LABEL_WIDTH + view * (scale * width + MARGIN), row * (scale * SIZE + MARGIN)
                tile = picture[top : top + scale * SIZE, left : left + scale * width]
                assert tile.std() > 10, (name, row)
    assert "squared error on masked patches" in text_of(cells["reconstruction"])
    matches = picture_of(cells["matches"])
    assert matches.shape[0] < matches.shape[1] and matches.std() > 10


def test_with_a_synthetic_room(run_notebook):
    cells = run_notebook("")
    check(cells, width=SIZE)
    text = text_of(cells["matches"])
    assert " of 16 patches" in text and "within 16 pixels" in text


def test_with_photographs(run_notebook, tmp_path):
    """Photographs with EXIF rotation, 72 x 96 pixels when upright."""
    folder = tmp_path / "scene"
    write_scene(folder, 8, seed=0)
    for path in folder.iterdir():
        with Image.open(path) as image:
            rotated = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        rotated.save(path, exif=exif, quality=95)
    cells = run_notebook(folder)
    check(cells, width=80)
    assert "within" not in text_of(cells["matches"])


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="these photographs are not part of the repository")
def test_with_photographs_of_a_camera(run_notebook):
    check(run_notebook(PHOTOGRAPHS), width=SIZE)
