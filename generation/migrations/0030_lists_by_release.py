from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ('generation', '0029_variant_images'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='job',
            index=models.Index(condition=models.Q(('purged_at__isnull', True)), fields=['owner', 'release', '-created_at', '-id'], name='job_owner_release'),
        ),
    ]
