"""The desired state, pure: the model goes in, a dict comes out."""
