"""What an upgrade costs, and what an owner of a module should do."""

FUNCTIONS = {"advise": "advise:advise"}
COMMANDS = ["advise_command"]
SECTIONS = {
    "price": "price_pages:PRICE",
    "answers": "answers:ANSWERS",
}
FIGURES = {"price": "price_pages:PRICE_FIGURE"}
