class NoiseModel:
    pass


class Identity(NoiseModel):
    pass
