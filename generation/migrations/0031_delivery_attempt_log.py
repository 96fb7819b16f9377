"""Latest attempts of a webhook delivery."""

from django.db import migrations, models

from generation.migrations._locks import lock_timeout


class Migration(migrations.Migration):

    dependencies = [("generation", "0030_lists_by_release")]

    operations = [
        lock_timeout,
        migrations.AddField(
            model_name="delivery",
            name="attempt_log",
            field=models.JSONField(
                blank=True,
                db_default=[],
                default=list,
                help_text="Latest attempts with an outcome, oldest first: time, HTTP status, error.",
            ),
        ),
    ]
