"""Names of the files of a design's results."""

PNG, SVG, CSV = "front.png", "front.svg", "front.csv"
REPORT, MARKDOWN, FACTS = "report.html", "report.md", "design.json"
RECIPE = "recipe.json"  # of the choice
SHEETS = "sheets"  # folder of the picture sheets


def sheet(number: int) -> str:
    """Return the relative path of a candidate's picture sheet."""
    return f"{SHEETS}/candidate-{number}.webp"
