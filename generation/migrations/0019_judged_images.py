from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ('generation', '0018_quality'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='image',
            index=models.Index(condition=models.Q(('is_accepted__isnull', False)), fields=['created_at'], name='image_judged'),
        ),
    ]
