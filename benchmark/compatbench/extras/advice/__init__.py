"""What an upgrade costs, and what an owner of a module should do."""

from compatbench.plugins import Command, Option

FUNCTIONS = {"advise": "advise:advise"}
SECTIONS = {
    "price": "price_pages:PRICE",
    "answers": "answers:ANSWERS",
}
FIGURES = {"price": "price_pages:PRICE_FIGURE"}
COMMANDS = {
    "advise": Command(
        "advise",
        "upgrade",
        options={
            "module": Option(""),
            "upgrade": Option(annotation="str", metavar="OLD,NEW"),
            "targets": Option("--target", annotation="str", completes="backbones"),
        },
        also=("data_root", "as_json", "offline", "trust_pickle"),
    ),
}
