"""URL routes of the pages, the API, the health check and metrics. Version 1 of the API does not change incompatibly."""

from django.urls import path

from generation.api.openai import images as openai
from generation.api.openai import models
from generation.api.replicate import models as versions
from generation.api.replicate import predictions
from generation.api.views import (
    events,
    guide,
    health,
    images,
    jobs,
    me,
    metrics,
    problem_pages,
    queues,
    releases,
    schema,
    variants,
    webhooks,
)
from generation.page import gallery, home, login, picture, selection, sharing
from generation.page import jobs as results

urlpatterns = [
    path("", home.Home.as_view(), name="home"),
    path("choices", home.Choices.as_view(), name="choices"),
    path("gallery", gallery.GalleryPage.as_view(), name="gallery"),
    path("gallery/chosen", selection.Selection.as_view(), name="selection"),
    path("pictures/<uuid:image_id>", picture.ShowPicture.as_view(), name="picture"),
    path("pictures/<uuid:image_id>/mark", picture.Mark.as_view(), name="picture-mark"),
    path("pictures/<uuid:image_id>/delete", picture.DeletePicture.as_view(), name="picture-delete"),
    path("shared/<str:token>", sharing.Shared.as_view(), name="shared"),
    path("jobs/<uuid:job_id>", results.Result.as_view(), name="result"),
    path("jobs/<uuid:job_id>/now", results.Now.as_view(), name="result-now"),
    path("jobs/<uuid:job_id>/events", results.Events.as_view(), name="result-events"),
    path("jobs/<uuid:job_id>/cancel", results.Cancel.as_view(), name="result-cancel"),
    path("jobs/<uuid:job_id>/delete", results.Delete.as_view(), name="result-delete"),
    path("login", login.limited(login.Login.as_view()), name="login"),
    path("logout", login.Logout.as_view(), name="logout"),
    path("v1/me", me.Me.as_view(), name="me"),
    path("v1/variants", variants.VariantList.as_view(), name="variants"),
    path(
        "v1/variants/import",
        variants.VariantImport.as_view(),
        {"slug": "import"},
        name="variants-import",
    ),
    path("v1/variants/<slug:slug>", variants.VariantDetail.as_view(), name="variant"),
    path(
        "v1/variants/images/<uuid:image_id>/thumbnail",
        images.VariantImageFile.as_view(),
        name="variant-image",
    ),
    path("v1/jobs", jobs.JobList.as_view(), name="jobs"),
    path("v1/jobs/<uuid:job_id>", jobs.JobDetail.as_view(), name="job"),
    path("v1/jobs/<uuid:job_id>/events", events.JobEvents.as_view(), name="job-events"),
    path("v1/jobs/<uuid:job_id>/cancel", jobs.JobCancel.as_view(), name="job-cancel"),
    path("v1/predictions", predictions.PredictionList.as_view(), name="predictions"),
    path(
        "v1/predictions/<str:prediction_id>",
        predictions.PredictionDetail.as_view(),
        name="prediction",
    ),
    path(
        "v1/predictions/<str:prediction_id>/cancel",
        predictions.PredictionCancel.as_view(),
        name="prediction-cancel",
    ),
    path(
        "v1/predictions/<str:prediction_id>/stream",
        events.PredictionStream.as_view(),
        name="prediction-stream",
    ),
    path(
        "v1/models/<slug:owner>/<slug:name>",
        versions.ModelDetail.as_view(),
        name="replicate-model",
    ),
    path(
        "v1/models/<slug:owner>/<slug:name>/predictions",
        predictions.ModelPredictions.as_view(),
        name="replicate-model-predictions",
    ),
    path(
        "v1/models/<slug:owner>/<slug:name>/versions/<slug:version>",
        versions.VersionDetail.as_view(),
        name="replicate-version",
    ),
    path("v1/images/<uuid:image_id>", images.ImageDetail.as_view(), name="image"),
    path("v1/images/<uuid:image_id>/file", images.ImageFile.as_view(), name="image-file"),
    path(
        "v1/images/<uuid:image_id>/thumbnail",
        images.ImageThumbnail.as_view(),
        name="image-thumbnail",
    ),
    path("v1/releases", releases.ReleaseList.as_view(), name="releases"),
    path("v1/releases/<slug:name>", releases.ReleaseDetail.as_view(), name="release"),
    path("v1/queues", queues.QueueList.as_view(), name="queues"),
    path("v1/queues/<slug:name>", queues.QueueDetail.as_view(), name="queue"),
    path("v1/queues/<slug:name>/pause", queues.QueuePause.as_view(), name="queue-pause"),
    path("v1/queues/<slug:name>/resume", queues.QueueResume.as_view(), name="queue-resume"),
    path("v1/images/generations", openai.ImageGenerations.as_view(), name="openai-images"),
    path("v1/models", models.ModelList.as_view(), name="openai-models"),
    path("v1/models/<slug:name>", models.ModelDetail.as_view(), name="openai-model"),
    path("v1/problems", problem_pages.ProblemList.as_view(), name="problems"),
    path("v1/problems/<slug:code>", problem_pages.ProblemDetail.as_view(), name="problem"),
    path("v1/webhooks", webhooks.WebhookList.as_view(), name="webhooks"),
    path(
        "v1/webhooks/<int:endpoint_id>/enable",
        webhooks.WebhookEnable.as_view(),
        name="webhook-enable",
    ),
    path("v1/webhooks/<int:endpoint_id>/test", webhooks.WebhookTest.as_view(), name="webhook-test"),
    path("v1/webhooks/default/secret", webhooks.Secret.as_view(), name="webhook-secret"),
    path("v1/webhooks/deliveries", webhooks.DeliveryList.as_view(), name="webhook-deliveries"),
    path(
        "v1/webhooks/deliveries/<uuid:delivery_id>/replay",
        webhooks.DeliveryReplay.as_view(),
        name="webhook-replay",
    ),
    path("v1/guide", guide.Guide.as_view(), name="guide"),
    path("v1/openapi.json", schema.description, name="schema"),
    path("v1/docs", schema.page, name="docs"),
    path("health/ready", health.ready, name="health-ready"),
    path("metrics", metrics.page, name="metrics"),
]
