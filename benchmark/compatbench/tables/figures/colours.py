"""The colours of all figures."""

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "red": "#d55e00",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "grey": "#777777",
}
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = COLOURS.values()
INK, FAINT, PAPER = "#1a1a1a", "#d9d9d9", "#ffffff"
# On a dark ground; as the site's style has them.
DARK = {
    PAPER: "#15171a",
    INK: "#e7e6e3",
    FAINT: "#3a3d42",
    GREY: "#9a9a9a",
    BLUE: "#4ba3e3",
    ORANGE: "#f0b429",
    GREEN: "#2cc295",
    RED: "#f0803c",
    PURPLE: "#de9cc0",
    SKY: "#9bd5f7",
}
