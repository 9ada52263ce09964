"""What a solver is: a table of numbers, one row per network evaluation.

A fixed-step solver is linear in the state and in the network's outputs. With `v = x / s(t)`, row i says

    e_i     = eps_theta(s_i u_i, t_i)                      the only expensive line
    m_i     = a_i u_i + b_i e_i                            what the history keeps
    h       = (m_i, m_{i-1}, ..., m_{i-K+1})
    u_{i+1} = p_i v_i + sum_k P_ik h_k + g_i z_i           next evaluation point
    v_{i+1} = q_i v_i + sum_k Q_ik h_k + g_i z_i           accepted state, z_i ~ N(0, I)

from u_0 = v_0 = x_T / s_0 to x = s_M u_M.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Column = Float64[np.ndarray, " nfe"]
Nodes = Float64[np.ndarray, " nfe+1"]
History = Float64[np.ndarray, "nfe lags"]


@dataclass(frozen=True, eq=False)
class Table:
    """A sampler, as NumPy columns, kept in float64, with one row per network evaluation.

    name: what the sampler is called in tables and figures, as "tAB3".
    t, s, rho: [nfe+1] time, signal scale and noise-to-signal ratio at the evaluations, and last at the result.
    a, b: [nfe] what the history keeps: (0, 1) keeps eps, (1, -rho) keeps the predicted x_0.
    p, q: [nfe] weights of the accepted state in the next evaluation point and in the next accepted state.
    P, Q: [nfe, lags] weights of the history, newest first, in the same two.
    g: [nfe] standard deviation of the noise added, in units of v.
    Raises ValueError if the columns disagree in length or hold a non-finite number.
    """

    name: str
    t: Nodes
    s: Nodes
    rho: Nodes
    a: Column
    b: Column
    p: Column
    q: Column
    P: History
    Q: History
    g: Column

    def __post_init__(self) -> None:
        for name, shape in self.shapes().items():
            value = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, value)
            if value.shape != shape:
                raise ValueError(f"{self.name}: column {name} must have shape {shape}, got {value.shape}")
            if not np.all(np.isfinite(value)):
                row = int(np.argwhere(~np.isfinite(value))[0][0])
                raise ValueError(f"{self.name}: column {name} is not finite in row {row}, at t={self.t[row]:g}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Expected shape of every column."""
        nodes, rows, history = (self.nfe + 1,), (self.nfe,), (self.nfe, self.lags)
        columns = dict.fromkeys(("t", "s", "rho"), nodes) | dict.fromkeys(("a", "b", "p", "q", "g"), rows)
        return columns | {"P": history, "Q": history}

    @property
    def nfe(self) -> int:
        """Number of network evaluations, exactly."""
        return len(self.a)

    @property
    def lags(self) -> int:
        """How many outputs the history holds."""
        return self.P.shape[1]

    @property
    def is_stochastic(self) -> bool:
        return bool(np.any(self.g))


def eps_table(
    name: str,
    t: np.ndarray,
    s: np.ndarray,
    rho: np.ndarray,
    P: np.ndarray,
    Q: np.ndarray | None = None,
    g: np.ndarray | None = None,
) -> Table:
    """A table whose history keeps eps and whose rows add to the accepted state.

    t, s, rho: [nfe+1]; P: [nfe, lags]; Q: [nfe, lags], equal to P where left out (no trial points); g: [nfe], no
        noise where left out.
    """
    one, zero = np.ones(len(P)), np.zeros(len(P))
    Q, g = P if Q is None else Q, zero if g is None else g
    return Table(name, t, s, rho, a=zero, b=one, p=one, q=one, P=P, Q=Q, g=g)
