"""Empty: the help texts are written where the fields are created. Databases have it among their applied migrations."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('distillation', '0011_run_tags'),
        ('generation', '0025_help_texts'),
    ]

    operations = []
