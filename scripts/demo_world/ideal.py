"""What a perfect contrastive model would show in this world: the known answer that trained models approach.

At the optimum of a contrastive loss a score is log p(text | image) - log p(text), so a softmax over prompts gives
probabilities proportional to p(text | image) / p(text).
"""

from .config import World


def women_in_settings(world: World) -> dict[str, float]:
    """Share of women among the people met in each setting."""
    jobs = list(world.occupations.values())
    elsewhere = (1 - world.at_home) / max(len(world.settings) - 1, 1)
    shares = {}
    for setting in world.settings:
        mass = [job.share * (world.at_home if job.home == setting else elsewhere) for job in jobs]
        shares[setting] = sum(m * job.p_woman for m, job in zip(mass, jobs, strict=True)) / sum(mass)
    return shares


def women_in_captions(world: World) -> float:
    """Share of women among the captions that name a gender."""
    jobs = world.occupations.values()
    at_work = sum(job.share * job.p_woman for job in jobs) / sum(job.share for job in jobs)
    in_portraits = (1 - world.plain_portraits) * at_work + world.plain_portraits * world.plain_p_woman
    told = {view: share * world.captions["gender"].get(view, 0.0) for view, share in world.views.items()}
    women = sum(mass * (in_portraits if view == "portrait" else at_work) for view, mass in told.items())
    return women / sum(told.values())


def ideal_bias(world: World) -> dict[str, float]:
    """AB on neutral portraits, and mean parity over settings where nobody's gender shows; both 0 once balanced."""
    w = {name: job.p_woman for name, job in world.occupations.items()}
    women, men = sum(w.values()), sum(1 - p for p in w.values())
    prior = women_in_captions(world)
    parity = 0.0
    for share in women_in_settings(world).values():
        man, woman = (1 - share) / (1 - prior), share / prior
        parity += (man - woman) / (man + woman) / len(world.settings)
    return {"ab": max(abs(p / women - (1 - p) / men) for p in w.values()), "parity": parity}
