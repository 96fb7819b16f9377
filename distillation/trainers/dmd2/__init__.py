"""Distribution matching (DMD2): the stage `matching`, its recipe and its discriminator."""
