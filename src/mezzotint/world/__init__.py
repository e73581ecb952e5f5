"""The still life: a captioned, rendered world whose truth is exact."""
