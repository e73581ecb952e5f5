"""What is on disk: model folders, safetensors, shipped models, and the pictures that carry their requests."""
