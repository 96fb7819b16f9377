"""The part of the catalogue that a run is for."""

import django.contrib.postgres.fields
from django.db import migrations, models

from generation.migrations._locks import lock_timeout


class Migration(migrations.Migration):

    dependencies = [("distillation", "0010_designs")]

    operations = [
        lock_timeout,
        migrations.AddField(
            model_name="run",
            name="tags",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=60),
                blank=True,
                db_default=[],
                default=list,
                help_text="Tags: the run is for prompt variants with one of them, and its release becomes a specialist.",
                size=None,
            ),
        ),
    ]
