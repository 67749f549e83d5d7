"""AnimateDiff, as the WebUIs load it: a thin script over the package `animatediff_webui` beside it."""
