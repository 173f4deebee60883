"""The steward: who must be warned or stopped, and why.

One look, the way its data goes:

    hub, looking     what the hub says, as servers that can be judged      Found
    store            what is kept from the looks before                    Known
    rounds           what follows: `policy` judges each server by its      Round
                     `rules`, `records` words what is kept and told
    store            all of it is kept, before anything is done
    loop             claims and stops what is due, looks again
    hooks            brings the news that were kept to `mail` and `webhook`

All that lasts is in the store's `file`: the steward writes it, except for extensions,
which the console takes (torchroom.console.extending). `settings` and `reading` are the
admin's side of the policy, `report` shows what was kept.
"""
