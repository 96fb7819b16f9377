import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

from generation.migrations._locks import lock_timeout

SCOPES = [
    ('jobs:write', 'create and cancel jobs'),
    ('jobs:read', 'read jobs and images'),
    ('variants:read', 'read the catalogue'),
    ('variants:write', 'change the catalogue'),
    ('releases:read', 'read releases and how they are made'),
    ('releases:write', 'make releases'),
    ('queues:write', 'see, pause and resume queues'),
]


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0017_queues'),
    ]

    operations = [
        lock_timeout,
        migrations.CreateModel(
            name='Quality',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('normalized_text', models.TextField()),
                ('evaluated', models.PositiveIntegerField(default=0, help_text='Number of pictures in its evaluation.')),
                ('evaluated_right', models.PositiveIntegerField(default=0)),
                ('judged', models.PositiveIntegerField(default=0, help_text='Number of judged pictures of recent jobs.')),
                ('judged_right', models.PositiveIntegerField(default=0)),
                ('release', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='qualities', to='generation.release')),
            ],
            options={
                'verbose_name_plural': 'quality',
                'constraints': [models.UniqueConstraint(fields=('release', 'normalized_text'), name='one_quality_per_release_and_text')],
            },
        ),
        migrations.AlterField('apikey', 'scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=SCOPES, max_length=20), size=None)),
    ]
