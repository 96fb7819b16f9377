"""Empty: the help texts are written where the fields are created. Databases have it among their applied migrations."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0024_names'),
    ]

    operations = []
