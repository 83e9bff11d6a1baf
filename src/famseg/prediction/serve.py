"""A page to drop images on: `famseg serve`. It listens on this computer only and keeps nothing."""

import ipaddress
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from famseg.errors import UserError
from famseg.overlays import Picture
from famseg.prediction.findings import NOTICE
from famseg.prediction.predict import load_members
from famseg.prediction.viewer import Viewer

MAX_UPLOAD = "20mb"
KEPT_S = 600  # uploads and results are deleted this long after their last use, and when the page ends

_STYLE = """
footer {display: none !important}
#notice {background: #fff3d6; padding: 4px 12px; border-left: 4px solid #e08a00; border-radius: 4px}
#notice * {color: #5c3a00}
#report table {width: 100%; margin: 0}
#report th, #report td {padding: 4px 10px; border-width: 0 0 1px 0}
"""
_PRIVATE: dict[str, Any] = {
    "share": False,
    "run_history": False,
    "enable_monitoring": False,
    "footer_links": [],
    "ssr_mode": False,
    "max_file_size": MAX_UPLOAD,
    "css": _STYLE,
    "quiet": True,
    "prevent_thread_lock": True,
}


def build(viewer: Viewer) -> Any:
    """The page, a `gradio.Blocks`.

    Raises:
        UserError: Gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs Gradio. Install it: pip install 'famseg[app]'") from error

    def answer(file: str | None, spacing: str, weeks: str) -> tuple[Picture | None, str]:
        try:
            return viewer.measure(file, spacing, weeks)
        except UserError as error:
            return None, f"**Not measured**\n\n{escape(str(error))}"  # no earlier result may stay beside it

    with gradio.Blocks(title="FAMSeg", analytics_enabled=False, delete_cache=(60, KEPT_S)) as page:
        gradio.Markdown("## FAMSeg: head and femur of a fetal ultrasound image, outlined and measured")
        gradio.Markdown(NOTICE, elem_id="notice")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                file = gradio.File(label="Image", height=130, elem_id="file")  # of any name: DICOM often has no suffix
                with gradio.Row():
                    spacing = gradio.Textbox(
                        label="mm per pixel", info="if the file is no DICOM", min_width=140, elem_id="spacing"
                    )
                    weeks = gradio.Textbox(
                        label="Weeks, if known", info="as 20.5 or 20+3", min_width=140, elem_id="weeks"
                    )
                button = gradio.Button("Measure", variant="primary", elem_id="measure")
                text = gradio.Markdown(elem_id="report")
            with gradio.Column(scale=3):
                picture = gradio.Image(
                    label="Result", format="png", buttons=["download", "fullscreen"], elem_id="result"
                )
        gradio.on(
            [file.upload, button.click, spacing.submit, weeks.submit], answer, [file, spacing, weeks], [picture, text]
        )
        file.clear(lambda: (None, ""), None, [picture, text])
    return page


def serve(checkpoints: Sequence[str], device: str, flip: bool, host: str, port: int, backend: str = "auto") -> None:
    """Show the page until Ctrl-C or SIGTERM.

    Args:
        checkpoints: runs or checkpoint files; several are averaged.
        device: auto, cpu, cuda ...
        flip: average with the mirrored image.
        host: address to listen on.
        port: its port.
        backend: auto, torch, onnxruntime or openvino.

    Raises:
        UserError: Gradio is missing, a checkpoint cannot be loaded, or the port is taken.
    """
    viewer = Viewer(load_members(checkpoints, device, flip, backend))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder goes, too
    with tempfile.TemporaryDirectory(prefix="famseg-") as folder:
        # Read when Gradio is imported, which else asks for its newest version and writes beside the folder.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "MPLCONFIGDIR": folder}
        page = build(viewer)
        try:
            page.queue(max_size=8, default_concurrency_limit=1).launch(
                server_name=host, server_port=port, theme=_theme(), app_kwargs=_health(checkpoints), **_PRIVATE
            )
        except OSError as error:
            raise UserError(f"{host}, port {port}: cannot be listened on. Choose another --port.") from error
        print(f"FAMSeg: http://{host}:{port}  ({NOTICE} Ctrl-C ends it.)", flush=True)
        if not _is_loopback(host):
            print(f"famseg: {host}: others can reach this page, and images travel unencrypted.", file=sys.stderr)
        page.block_thread()


def _health(checkpoints: Sequence[str]) -> dict[str, Any]:
    """`GET /health`, for what watches the page: 200 and the names of the networks, without this computer's folders."""
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    names = [Path(checkpoint).name for checkpoint in checkpoints]
    return {"routes": [Route("/health", lambda request: JSONResponse({"checkpoints": names}))]}


def _theme() -> Any:
    import gradio

    # Fonts of the system: the themes' own are fetched from elsewhere.
    return gradio.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
