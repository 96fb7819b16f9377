"""The devices that a worker reports."""

import django.contrib.postgres.fields
from django.db import migrations, models

from generation.migrations._locks import lock_timeout


class Migration(migrations.Migration):

    dependencies = [("generation", "0027_quality_floor")]

    operations = [
        lock_timeout,
        migrations.AddField(
            model_name="worker",
            name="devices",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=20),
                db_default=[],
                default=list,
                help_text="Devices of its machine; only distillation workers report them.",
                size=None,
            ),
        ),
    ]
