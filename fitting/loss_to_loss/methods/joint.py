"""All sets at once: L_i = E_i + K_i z^kappa_i with one z(N, D) = A / N^alpha + B / D^beta.

The link of two sets is then exact by construction: invertible and transitive. A set with six runs
borrows z from the others; a prior on its kappa holds what six runs cannot say. Residuals of sets
in one cell are correlated (the same seed and recipe, .7 in public sweeps), so cells are whitened
by the residual covariance, estimated in two rounds (Zellner 1962, seemingly unrelated
regressions): what moves all sets alike no longer moves the links.
"""

from dataclasses import dataclass

import numpy as np

from fitting.errors import FittingError
from fitting.links import Floats
from fitting.loss_to_loss.latent import Latent, fit_latent, links_between
from fitting.loss_to_loss.methods.estimator import Answer, Options, at_bound
from fitting.loss_to_loss.pairs import Pairs


@dataclass(kw_only=True)
class Joint(Answer):
    latent: Latent

    def resampled(self, weights: Floats) -> Floats:
        return links_between(self.latent.resampled(weights), 0, 1)


def _refuse_above_losses(pairs: Pairs, place: int, given: float | None) -> None:
    """A floor that is given stands below every loss of its set: no z reaches those beneath it."""
    seen = pairs.losses[np.isfinite(pairs.losses[:, place]), place]
    lost = 0 if given is None else int((seen <= given).sum())
    if lost:
        raise FittingError(
            "infeasible",
            f"E{place} is given as {given:.6g}, and {lost} of {seen.size} losses of "
            f"{pairs.names[place]} lie at or below it.",
            f"Fix a floor below {seen.min():.6g}, leave E{place} free, or use paper_ols or odr, "
            "which leave such pairs out and say how many.",
        )


def prepare(pairs: Pairs, options: Options) -> Joint:
    for place, given in enumerate((options.E0, options.E1)):
        _refuse_above_losses(pairs, place, given)
    latent = fit_latent(pairs, kappa_prior=options.kappa_prior, E0=options.E0, E1=options.E1)
    best = links_between(latent.theta[None], 0, 1)[0]
    warned = []
    for place, given in enumerate((options.E0, options.E1)):
        low = float(np.nanmin(pairs.losses[:, place]))
        if given is None and best[2 + place] < 1e-3 * low:
            warned.append(at_bound(f"E{place}", float(best[2 + place]), "zero"))
        elif given is None and best[2 + place] > low * (1 - 1e-4):
            warned.append(at_bound(f"E{place}", float(best[2 + place]), "the smallest loss"))
    return Joint(
        best=best,
        floors={
            name: "joint" if given is None else "given"
            for name, given in (("E0", options.E0), ("E1", options.E1))
        },
        certificate=latent.certificate,
        warnings=warned,
        latent=latent,
    )
