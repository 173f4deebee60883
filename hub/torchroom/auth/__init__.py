"""Login: who somebody is, and whether they may use this hub.

addresses   which of them are this machine's, which may get a secret          pure
settings    what the environment says, checked
providers   what each kind of identity provider needs                         pure
claims      a name, a subject and groups out of what a provider says          pure
tokens      whether an id_token is the provider's, for us, and of now         pure
endpoints   what an OpenID provider says of itself                            pure
discovery   asking it, when the hub starts
accounts    which account of the provider a name on the hub belongs to
courses     courses.toml as it is now
pace        how often somebody may try
rights      what somebody is in JupyterHub's database, changed at once
refusals    what somebody who is refused reads
handlers    the way to the provider and back
answers     what a provider says of an account, and how it is kept            pure
states      which of the answers that are kept of somebody counts
asking      asking it, at a login and again later
removal     taking everything away from who is in no course any more
refresh     what somebody is when they are asked about again
authenticator  the class that JupyterHub asks, at login and again while it lasts
local       the login by password, for this machine only
wiring      all of it as JupyterHub's configuration
"""
