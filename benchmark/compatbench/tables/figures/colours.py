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
