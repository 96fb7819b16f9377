"""Names of lists in the admin; no change of a table."""

from django.conf import settings
from django.db import migrations


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
    ]
