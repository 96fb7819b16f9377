from django.db import migrations, models

from generation.migrations._locks import lock_timeout


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0012_help_texts'),
    ]

    operations = [
        lock_timeout,
        migrations.CreateModel(
            name='Queue',
            fields=[
                ('name', models.CharField(max_length=20, primary_key=True, serialize=False)),
                ('paused_at', models.DateTimeField(blank=True, help_text='When the queue was paused. Empty: it is not paused.', null=True)),
                ('paused_by', models.CharField(blank=True, max_length=150)),
                ('reason', models.CharField(blank=True, max_length=200)),
            ],
            options={'ordering': ['name']},
        ),
        migrations.AddField('attempt', 'error_class', models.CharField(blank=True, choices=[('job', 'job (counts as a failure)'), ('infrastructure', 'infrastructure (storage, database, device, release)')], db_default='', default='', max_length=14)),
        migrations.AddField('job', 'not_before', models.DateTimeField(blank=True, help_text='Earliest time of the next attempt; set when an attempt ended without images.', null=True)),
        migrations.AddField('worker', 'fault', models.CharField(blank=True, db_default='', default='', help_text='Code of the fault that prevents it from claiming jobs. Empty: no fault.', max_length=40)),
        migrations.AddField('worker', 'fault_detail', models.TextField(blank=True, db_default='', default='')),
        migrations.AddField('worker', 'faulty_since', models.DateTimeField(blank=True, null=True)),
        migrations.AlterField('attempt', 'outcome', models.CharField(choices=[('running', 'Running'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('lost', 'lost (the lease ran out)'), ('canceled', 'Canceled'), ('released', 'released (given back; not a failure of the job)')], default='running', max_length=10)),
    ]
