"""The same live call, headless, in a notebook under the newest kernel and under Colab's."""

import base64
import json
import os
import sys
from pathlib import Path

import nbclient
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
KERNELS = {"newest": Path(sys.executable), "colab": ROOT / ".venv-colab" / "bin" / "python"}

CELLS = [
    """
import sys
sys.path.insert(0, "tests")
import ipykernel, IPython, ipywidgets
from architectures import build
from alignlab import dpo
from alignlab.lab import live
policy = build("llama").policy(rank=2)
pairs = [{"prompt": f"Say {i}", "chosen": "yes and more", "rejected": "no"} for i in range(40)]
config = dpo.Config(batch_size=4, epochs=3)
training = live.Training(dpo.train(policy, pairs, config), config)
print("VERSIONS", ipykernel.__version__, IPython.__version__, ipywidgets.__version__)
""",
    """
def ask(training, steps):
    for metrics in steps:
        if metrics["step"] == 4:
            training.ask("beta", 0.25)
        yield metrics
training.steps = ask(training, training.steps)
await live.run(training)
print("AFTER")
""",
    'print("STEPS", len(training.metrics), training.finished, training.metrics[5]["changed"], training.metrics[5]["beta"])',
    "other = dpo.Config(batch_size=4, epochs=1)\n"
    "a, b = (live.Training(dpo.train(build('llama').policy(rank=2), pairs, other), other, title) for title in 'AB')\n"
    "await live.compare(a, b)\nprint('BOTH', len(a.metrics), len(b.metrics))",
]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_live_run_ends_in_order_with_its_curves_and_settings(kernel, tmp_path):
    python = KERNELS[kernel]
    if not python.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{python} is not there")
        pytest.skip("Colab's kernel is not set up: make .venv-colab/.ready")
    place = tmp_path / "kernels" / "under-test"
    place.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (place / "kernel.json").write_text(json.dumps({"argv": command, "display_name": kernel, "language": "python"}))
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in CELLS])
    client = nbclient.NotebookClient(notebook, timeout=180, kernel_name="under-test", store_widget_state=False,
                                     resources={"metadata": {"path": str(ROOT)}})  # fmt: skip
    manager = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")], ensure_native_kernel=False)
    client.create_kernel_manager()
    client.km.kernel_spec_manager = manager
    client.execute()

    streams = ["".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream") for cell in notebook.cells]
    assert ("VERSIONS 6.17.1 7.34.0 7.7.1" in streams[0]) == (kernel == "colab"), streams[0]
    assert "AFTER" in streams[1]
    assert "STEPS 30 True [{'name': 'beta', 'old': 0.5, 'new': 0.25}] 0.25" in streams[2]
    assert "BOTH 10 10" in streams[3]
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.outputs)
    shown = [output.data for output in notebook.cells[1].outputs if "data" in output]
    assert any("step 6: beta 0.5 to 0.25" in data.get("text/plain", "") for data in shown), "the settings as text"
    pictures = [data for data in shown if "image/png" in data]
    assert len(pictures) == 1, "one picture, replaced in place"
    assert base64.b64decode(pictures[0]["image/png"]).startswith(b"\x89PNG") and "step 30 of 30" in pictures[0]["text/plain"]
    assert not any("application/vnd.jupyter.widget-view+json" in data for data in shown), "no dead controls are left behind"
