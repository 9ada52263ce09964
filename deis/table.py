"""What a solver is: a table of numbers, one row per network evaluation.

A fixed-step solver is linear in the state and in the network's outputs. With `v = x / s(t)`, row i says

    e_i     = eps_theta(s_i u_i, t_i)                      the only expensive line
    m_i     = a_i u_i + b_i e_i                            what the history keeps
    h       = (m_i, m_{i-1}, ..., m_{i-K+1})
    u_{i+1} = p_i v_i + sum_k P_ik h_k + g_i z_i           next evaluation point
    v_{i+1} = q_i v_i + sum_k Q_ik h_k + g_i z_i           accepted state, z_i ~ N(0, I)

from u_0 = v_0 = x_T / s_0 to x = s_M u_M.

Where s(T) = 0, the first row says s_0 = sigma(T) and rho_0 = 1, and eps_theta is x / sigma - x_0 there
(`deis.sde.kernel`); its step is in `deis.tables.pure_noise`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from deis.errors import as_type, checked, require
from deis.sde import SDE

Column = Float64[np.ndarray, " nfe"]
Nodes = Float64[np.ndarray, " nfe+1"]
History = Float64[np.ndarray, "nfe lags"]

FORMAT = "deis solver table 1"


@dataclass(frozen=True, eq=False)
class Table:
    """A sampler, as NumPy columns, kept in float64, with one row per network evaluation.

    name: what the sampler is called in tables and figures, as "tAB3".
    t, s, rho: [nfe+1] time, signal scale and noise-to-signal ratio at the evaluations, and last at the result.
    a, b: [nfe] what the history keeps: (0, 1) keeps eps, (1, -rho) keeps the predicted x_0.
    p, q: [nfe] weights of the accepted state in the next evaluation point and in the next accepted state.
    P, Q: [nfe, lags] weights of the history, newest first, in the same two.
    g: [nfe] standard deviation of the noise added, in units of v.
    about: where it comes from, in words; kept by `save`.
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
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("t", "s", "rho", "a", "b", "p", "q", "P", "Q", "g"):
            object.__setattr__(self, name, as_type(f"{self.name}: column {name}", getattr(self, name), np.ndarray))
        as_type(f"{self.name}: about", self.about, Mapping)
        shapes = self.a.shape, self.P.shape
        require((self.a.ndim, self.P.ndim) == (1, 2), f"{self.name}: a must be [nfe] and P [nfe, lags], got {shapes}")
        for name, shape in self.shapes().items():
            value = getattr(self, name)
            require(value.shape == shape, f"{self.name}: column {name} must have shape {shape}, got {value.shape}")
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
        """Whether any row adds noise."""
        return bool(np.any(self.g))

    def save(self, path: str | Path) -> None:
        """Write the table as a safetensors file: the columns in float64, and in its metadata name, about, a digest."""
        columns = {name: np.ascontiguousarray(getattr(self, name)) for name in self.shapes()}
        words = {"format": FORMAT, "name": self.name, "about": json.dumps(dict(self.about))}
        path = Path(path)
        part = path.with_name(path.name + ".part")  # a killed process leaves no half of a table
        part.write_bytes(save(columns, words | {"sha256": _digest(columns, words)}))
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path, sde: SDE | None = None) -> "Table":
        """The table that `save` wrote, bit for bit. sde: that of the network it is to be used with, if it is checked.

        Raises FileNotFoundError; ValueError for a file that is damaged or holds something else, or a table of another
        SDE.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no table {path}")
        try:
            with safe_open(path, "numpy") as file:
                words = file.metadata() or {}
                if words.get("format") != FORMAT:
                    raise ValueError(f"{path} is no solver table of deis, as Table.save writes them")
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if words.pop("sha256", None) != _digest(columns, words):
                raise ValueError(f"{path} is damaged: its digest does not fit; make it anew")
            table = cls(words["name"], **columns, about=json.loads(words["about"]))
        except (SafetensorError, TypeError, KeyError):
            raise ValueError(f"{path} is damaged, or no solver table of deis, as Table.save writes them") from None
        if sde is not None:
            table.require_sde(sde, str(path))
        return table

    @checked
    def require_sde(self, sde: SDE, source: str = "table") -> None:
        """Raise ValueError, which begins with `source`, if the table was made for another SDE."""
        if not _is_of(self, sde):
            raise ValueError(f"{source}: {self.name} was made for another SDE than this network's; make one for it")


def about_sde(sde: SDE) -> str:
    """An SDE by its values: t, s and sigma at nine times from t_0 to T, as JSON."""
    t = np.linspace(sde.t_0, sde.T, 9)
    return json.dumps([t.tolist(), np.broadcast_to(sde.s(t), t.shape).tolist(), sde.sigma(t).tolist()])


def _is_of(table: Table, sde: SDE) -> bool:
    """Whether the table belongs to the SDE: by `about_sde` where it says so, else by its own nodes."""
    if "sde" in table.about:
        t, s, sigma = np.array(json.loads(table.about["sde"]), np.float64)
        s = np.where(s == 0, sigma, s)
        rho = sigma / s
    else:
        t, s, rho = table.t[:-1], table.s[:-1], table.rho[:-1]
    rounding = 1e-6 * (sde.T - sde.t_0)
    if t.min() < sde.t_0 - rounding or t.max() > sde.T + rounding:
        return False
    expected_s, expected_rho = sde.evaluation(t)
    return np.allclose(expected_s, s, rtol=1e-6) and np.allclose(expected_rho, rho, rtol=1e-5)


def _digest(columns: dict[str, np.ndarray], words: Mapping[str, str]) -> str:
    """SHA-256 of all that a file says."""
    found = hashlib.sha256(json.dumps(dict(sorted(words.items()))).encode())
    for name in sorted(columns):
        found.update(f"{name} {columns[name].dtype} {columns[name].shape}".encode() + columns[name].tobytes())
    return found.hexdigest()


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
