from hypothesis import settings

settings.register_profile("minclip", deadline=None, derandomize=True)
settings.load_profile("minclip")
