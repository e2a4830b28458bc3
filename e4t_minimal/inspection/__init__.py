"""Looking inside a model: `trace` and `patch`, heat maps, figures, widgets."""
