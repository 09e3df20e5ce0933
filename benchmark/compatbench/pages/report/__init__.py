"""Results as pictures and as one page: ``results/figures/*.svg`` and ``results/report.html``."""

from compatbench.pages.report.figures import render_figures, write_figures

__all__ = ["render_figures", "write_figures"]
