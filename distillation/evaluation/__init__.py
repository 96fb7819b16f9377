"""How far pictures are from what they should be: distances between sets, shares, intervals. Knows no network."""
