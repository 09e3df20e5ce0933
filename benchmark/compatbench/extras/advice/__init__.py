"""What an upgrade costs, and what an owner of a module should do."""

FUNCTIONS = {"advise": "advise:advise", "predict": "predict:predict"}
SECTIONS = {"price": "sections:PRICE", "price answer": "sections:ANSWER"}
FIGURES = {"price": "price_figure:PRICE_FIGURE"}
