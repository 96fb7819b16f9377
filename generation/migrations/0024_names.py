"""Names of lists in the admin; no change of a table."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0023_specialists'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='delivery',
            options={'ordering': ['-created_at'], 'verbose_name': 'webhook delivery', 'verbose_name_plural': 'webhook deliveries'},
        ),
        migrations.AlterModelOptions(
            name='stockedimage',
            options={'ordering': ['-created_at'], 'verbose_name': 'stocked image', 'verbose_name_plural': 'stock'},
        ),
        migrations.AlterModelOptions(
            name='webhookendpoint',
            options={'ordering': ['-created_at'], 'verbose_name': 'webhook'},
        ),
        migrations.AlterField(
            model_name='delivery',
            name='endpoint',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to='generation.webhookendpoint', verbose_name='webhook'),
        ),
        migrations.AlterField(
            model_name='delivery',
            name='owner',
            field=models.ForeignKey(db_index=False, help_text='Owner of the webhook.', on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to=settings.AUTH_USER_MODEL),
        ),
    ]
