import django.contrib.postgres.fields
from django.db import migrations, models

from generation.migrations._locks import lock_timeout

SCOPES = [
    ('jobs:write', 'create and cancel jobs'),
    ('jobs:read', 'read jobs and images'),
    ('variants:read', 'read the catalogue'),
    ('releases:read', 'read releases and how they are made'),
    ('releases:write', 'make releases'),
    ('queues:write', 'see, pause and resume queues'),
]


def insert(apps, schema_editor):
    """Insert the queues of jobs, so that the admin lists them."""
    for name in ("generation", "reference"):
        apps.get_model("generation", "Queue").objects.get_or_create(name=name)


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0016_erased_words'),
    ]

    operations = [
        lock_timeout,
        migrations.AlterField('apikey', 'scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=SCOPES, max_length=20), size=None)),
        migrations.RunPython(insert, migrations.RunPython.noop),
    ]
