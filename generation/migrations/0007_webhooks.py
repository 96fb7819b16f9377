import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("generation", "0006_external_fingerprint"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="webhookendpoint",
            name="failing_since",
            field=models.DateTimeField(blank=True, help_text='Time of the first of the consecutive failures.', null=True),
        ),
        # Without a default: nothing has written rows of this table yet.
        migrations.AddField(
            model_name="delivery",
            name="owner",
            field=models.ForeignKey(db_index=False, help_text='Owner of the webhook.', on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to=settings.AUTH_USER_MODEL),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                fields=["owner", "-created_at", "-id"], name="delivery_of_owner"
            ),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                fields=["owner", "status", "-created_at", "-id"],
                condition=models.Q(("status__in", ("pending", "dead"))),
                name="delivery_open",
            ),
        ),
    ]
