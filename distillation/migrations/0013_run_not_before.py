"""The pause of a run after a failed slice."""

from django.db import migrations, models

from generation.migrations._locks import lock_timeout


class Migration(migrations.Migration):
    dependencies = [("distillation", "0012_help_texts")]

    operations = [
        lock_timeout,
        migrations.AddField(
            model_name="run",
            name="not_before",
            field=models.DateTimeField(
                blank=True, help_text="Start of the next slice at the earliest.", null=True
            ),
        ),
    ]
