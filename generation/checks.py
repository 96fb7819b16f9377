"""System checks of the app. Filled beside the settings that they guard."""
