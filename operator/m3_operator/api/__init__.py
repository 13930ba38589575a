"""The API as pydantic models: the CRD, the field reference and the validation come from them."""
