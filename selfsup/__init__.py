"""A small reference reproduction of SeLa (Asano, Rupprecht and Vedaldi, ICLR 2020).

``python -m selfsup train digits`` learns a network and its labels together, without any
annotation; see :mod:`selfsup.sela` for the method.
"""
