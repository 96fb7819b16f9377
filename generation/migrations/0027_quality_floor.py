"""A floor of quality for a release and for a prompt variant."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import migrations, models

from generation.migrations._locks import lock_timeout

SHARE = [MinValueValidator(0), MaxValueValidator(1)]
FLOOR = "0 to 1: minimum share of right pictures; where the best student is below it, a better teacher serves"


class Migration(migrations.Migration):

    dependencies = [("generation", "0026_fewer_indexes")]

    operations = [
        lock_timeout,
        migrations.AddField(
            model_name="promptvariant",
            name="quality_floor",
            field=models.FloatField(
                blank=True, null=True, validators=SHARE, help_text=f"{FLOOR}. Empty: as for the release."
            ),
        ),
        migrations.AddField(
            model_name="release",
            name="quality_floor",
            field=models.FloatField(
                blank=True, null=True, validators=SHARE, help_text=f"{FLOOR}. Empty: the setting QUALITY_FLOOR."
            ),
        ),
    ]
