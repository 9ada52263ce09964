"""UniPC (arXiv 2302.04867): a predictor and a corrector of any order from one evaluation a step.

Where the paper solves R_p a_p = phi_p / B(h), B(h) cancels, and what is left is the integral of the polynomial in
log rho through the evaluations. Its function B(h) is seen where one unknown is set to 1/2 instead of solved for, as
the paper proposes: in the predictor of order 2 and in the corrector after an order 1.
"""

from typing import Unpack

import numpy as np

from deis.errors import checked, choice
from deis.sde import SDE
from deis.table import Table
from deis.tables.exponential import log_weights
from deis.tables.multistep import Options, check_order, multistep

VARIANTS = ("B1", "B2", "vary")
MAX_ORDER = 6


@checked
def unipc(
    sde: SDE,
    ts: np.ndarray,
    order: int = 3,
    *,
    variant: str = "B2",
    prediction: str = "x_0",
    **options: Unpack[Options],
) -> Table:
    """UniPC-p: predictor UniP-p and corrector UniC-p; 1 NFE a step, orders 1, 2, ... p at the start.

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation.
    order: p, 1 to 6; the authors use 2 and 3. The order of convergence is p + 1, without the corrector p ("UniP"); the
        steps of lower order at the end, kept as the authors do unless lower_order_final=False, bound it by 2.
    variant: "B1", B(h) = h, or "B2", B(h) = e^h - 1 (section 3.4); "vary", the
        varying coefficients (appendix C), which solve for that unknown too.
    prediction: what the polynomial goes through, predicted "x_0" (the authors' choice for guided sampling) or "eps".
    options: those of `Options`; lower_order_final and corrector are on.
    Raises ValueError for any other order, variant or prediction, or bad nodes.
    """
    check_order(order, 1, MAX_ORDER, "unipc order")
    choice("variant", variant, VARIANTS)
    options = Options(lower_order_final=True, corrector=True) | options
    name = ("UniPC" if options["corrector"] else "UniP") + str(order)
    weights = log_weights(prediction, "exact" if variant == "vary" else variant)
    return multistep(name, sde, ts, order - 1, weights, weights, prediction, **options)
