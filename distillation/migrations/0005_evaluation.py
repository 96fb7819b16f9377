from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('distillation', '0004_canary_policy'),
        ('generation', '0003_scope_of_making_releases'),
    ]

    operations = [
        migrations.CreateModel(
            name='Evaluation',
            fields=[
            ],
            options={
                'ordering': ['-registered_at'],
                'proxy': True,
                'default_permissions': ('view',),
                'indexes': [],
                'constraints': [],
            },
            bases=('generation.release',),
        ),
    ]
