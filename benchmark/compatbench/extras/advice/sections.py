"""What pages say of the price of an upgrade."""

from __future__ import annotations

from pathlib import Path

from compatbench.extras.advice import price_tables
from compatbench.tables.pages.sections import Section

_FOLDER = Path(__file__).parent
PRICE = Section(
    page="suite",
    place=60,
    title="The price of an upgrade",
    applies=price_tables.has_prices,
    template=str(_FOLDER / "price.md.jinja"),
    functions=vars(price_tables),
)
ANSWER = Section(
    page="leaderboard",
    place=10,
    title="Keep, port or retrain?",
    applies=price_tables.has_prices,
    template=str(_FOLDER / "price_answer.md.jinja"),
    functions=vars(price_tables),
)
