"""A status more; no change of the table."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("generation", "0022_favourites")]

    operations = [
        migrations.AlterField(
            model_name="release",
            name="status",
            field=models.CharField(
                choices=[
                    ("candidate", "Candidate"),
                    ("active", "Active"),
                    ("specialist", "Specialist"),
                    ("retired", "Retired"),
                    ("rejected", "Rejected"),
                ],
                default="candidate",
                max_length=10,
            ),
        ),
    ]
