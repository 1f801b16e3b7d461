"""A grid of panels over one image, with a legend and a scale."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

PANEL = 2.3  # inches that a panel is wide
DARKEN = 0.75  # so that overlays stand out


class Sheet:
    """A grid of panels that show one image in grey, under overlays.

    Args:
        image: (h, w, 3) uint8, RGB.
        title: Above the sheet.
        rows: Rows of panels.
        columns: Columns of panels.
    """

    def __init__(self, image: np.ndarray, title: str, rows: int, columns: int) -> None:
        self.image = image
        self.shows_reads = False
        self.size = height, width = image.shape[:2]
        self.grey = image.mean(axis=2) * DARKEN / 255
        panel_height = PANEL * min(max(height / width, 0.4), 2.5) + 0.45
        self.figure = Figure(
            (PANEL * columns + 1.4, panel_height * rows + 1.4), dpi=90, layout='constrained'
        )
        self.figure.suptitle(title, fontsize=11)
        self.axes = self.figure.subplots(rows, columns, squeeze=False)
        for axes in self.axes.flat:
            axes.set_axis_off()

    def panel(self, row: int, column: int, title: str, label: str = '') -> Axes:
        """Axes in pixels of the image; the label stands beside the first of a row."""
        axes = self.axes[row, column]
        height, width = self.size
        axes.imshow(self.grey, cmap='gray', vmin=0, vmax=1, extent=(0, width, height, 0))
        axes.set_title(title, fontsize=8)
        if label and column == 0:
            place = dict(rotation=90, ha='right', va='center', fontsize=9)
            axes.text(-0.04, 0.5, label, transform=axes.transAxes, **place)
        return axes

    def read(self, axes: Axes, attention: Tensor, colour: str, stride: int) -> None:
        """Lay attention over pixels (H, W) on a panel, opaque where it peaks.

        Opacity grows with the root of attention, so that more than the peak is seen.
        The panel's title gets how much higher the peak is than even attention.
        """
        overlay = np.empty((*attention.shape, 4), np.float32)
        overlay[..., :3] = to_rgb(colour)
        overlay[..., 3] = (attention / attention.max()).sqrt().numpy()
        self._lay(axes, overlay, stride)
        peak = float(attention.max() / attention.mean())
        axes.set_title(f'{axes.get_title()}\npeak {peak:.3g}×', fontsize=8)
        self.shows_reads = True

    def shares(self, axes: Axes, shares: Tensor, colours: Sequence[str], stride: int) -> None:
        """Colour each pixel by the token that has most of it, stronger where it has more.

        Args:
            axes: The panel.
            shares: (M, H, W), a distribution over the tokens in every pixel.
            colours: One a token.
            stride: Pixels of the image that a pixel of the map stands for.
        """
        largest, owner = shares.max(dim=0)
        overlay = np.empty((*owner.shape, 4), np.float32)
        overlay[..., :3] = np.array([to_rgb(colour) for colour in colours])[owner.numpy()]
        overlay[..., 3] = (0.2 + 0.8 * largest).numpy()
        self._lay(axes, overlay, stride)

    def box(self, axes: Axes, box: Tensor, colour: str, style: str = '-') -> None:
        """Draw a box (x1, y1, x2, y2), relative to the image."""
        height, width = self.size
        left, top, right, bottom = (box * box.new_tensor([width, height, width, height])).tolist()
        look = dict(fill=False, edgecolor=colour, linestyle=style, linewidth=1.5)
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **look))

    def finish(self, names: dict[str, str], note: str = '') -> Figure:
        """Add a legend of the colours by name, a note, and the scale of what is read."""
        look = dict(fontsize=9, title_fontsize=9, facecolor='#444444', labelcolor='white')
        if names or note:
            patches = [Patch(color=colour, label=name) for name, colour in names.items()]
            columns = max(1, int(self.figure.get_figwidth() / 1.6))
            legend = self.figure.legend(
                handles=patches, loc='outside lower center', ncols=columns, title=note, **look
            )
            legend.get_title().set_color('white')
        if self.shows_reads:
            scale = self.figure.colorbar(
                ScalarMappable(PowerNorm(0.5, 0, 1), 'gray'),
                ax=list(self.axes.flat),
                shrink=0.7,
                aspect=40,
                pad=0.01,
            )
            label = '"reads": attention as a share of its peak; 1× is even attention'
            scale.set_label(label, fontsize=8)
        return self.figure

    def _lay(self, axes: Axes, overlay: np.ndarray, stride: int) -> None:
        height, width = overlay.shape[:2]
        axes.imshow(overlay, extent=(0, width * stride, height * stride, 0))
        axes.set(xlim=(0, self.size[1]), ylim=(self.size[0], 0))
