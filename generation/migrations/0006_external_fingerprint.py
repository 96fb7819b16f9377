from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0005_api'),
    ]

    operations = [
        migrations.AddField(
            model_name='job',
            name='external_fingerprint',
            field=models.CharField(blank=True, help_text='SHA-256 of the request that chose the external id.', max_length=64),
        ),
    ]
