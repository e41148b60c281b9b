//! The few functions that detections need and DataFusion does not have.
//!
//! | function | says |
//! | --- | --- |
//! | `cidr_match(ip, 'net/len')` | whether an address lies in a network; NULL when the address is NULL or no address |
//! | `program(exepath, argv0, args)` | the program really run: `sh` for `/bin/busybox` called as `sh`, for `busybox sh`, for `ld-linux.so.2 /bin/sh` |

use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// Every function of this module.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(CidrMatch {
            signature: Signature::any(2, Volatility::Immutable),
        })),
        Arc::new(ScalarUDF::from(Program {
            signature: Signature::any(3, Volatility::Immutable),
        })),
    ]
}

/// The mend of a call that is wrong. The column that it is given and the network are kept as far as they are right.
fn cidr_usage(network: Option<&str>, argument: Option<&str>) -> String {
    let network = network.and_then(nearest_network);
    format!(
        "write cidr_match({}, '{}')",
        argument.unwrap_or("fd_rip"),
        network.as_deref().unwrap_or("10.0.0.0/8")
    )
}

/// The network that a text most likely means: an address alone is one of its own, and a length has a most.
fn nearest_network(text: &str) -> Option<String> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.trim().parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: u32 = length.trim().parse().unwrap_or(most);
    Some(format!("{address}/{}", length.min(most)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CidrMatch {
    signature: Signature,
}

impl ScalarUDFImpl for CidrMatch {
    fn name(&self) -> &str {
        "cidr_match"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, argument_types: &[DataType]) -> Result<DataType> {
        if argument_types
            .iter()
            .all(|kind| kind.is_string() || *kind == DataType::Null)
        {
            return Ok(DataType::Boolean);
        }
        plan_err!(
            "cidr_match takes an address and a network as text; {}",
            cidr_usage(None, None)
        )
    }

    /// Also looks at the network, so that one that is none is refused when the query is planned.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let kind = self.return_type(&types)?;
        // A column is called by its name, what is computed by that of the function.
        let prefixes = ["fd_", "proc_", "evt_", "host_", "container_"];
        let is_column = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let argument = Some(args.arg_fields[0].name().as_str()).filter(is_column);
        let Some(network) = args.scalar_arguments[1] else {
            return plan_err!(
                "cidr_match takes its network as a constant; {}",
                cidr_usage(None, argument)
            );
        };
        let network = network.try_as_str().flatten().unwrap_or("NULL");
        if Network::parse(network).is_none() {
            return plan_err!(
                "cidr_match: {network:?} is no network; {}",
                cidr_usage(Some(network), argument)
            );
        }
        Ok(Arc::new(Field::new(self.name(), kind, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ColumnarValue::Scalar(network) = &args.args[1] else {
            return exec_err!("cidr_match takes its network as a literal such as '10.0.0.0/8'");
        };
        let Some(Some(network)) = network.try_as_str() else {
            return Ok(ColumnarValue::Scalar(ScalarValue::Boolean(None)));
        };
        let Some(network) = Network::parse(network) else {
            return exec_err!("cidr_match: {network:?} is no network such as '10.0.0.0/8'");
        };
        let addresses = texts(&args.args[0], args.number_rows)?;
        let matches: BooleanArray = addresses
            .iter()
            .map(|text| Some(network.holds(text?.parse().ok()?)))
            .collect();
        Ok(ColumnarValue::Array(Arc::new(matches)))
    }
}

/// A network as a prefix of address bits; IPv4 addresses are the IPv6 addresses that embed them.
struct Network {
    bits: u128,
    mask: u128,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u32 = length.parse().ok()?;
        let embedded = if address.is_ipv4() { 96 } else { 0 };
        if length > 128 - embedded {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - embedded - length).unwrap_or(0);
        Some(Self {
            bits: address_bits(address) & mask,
            mask,
        })
    }

    fn holds(&self, address: IpAddr) -> bool {
        address_bits(address) & self.mask == self.bits
    }
}

fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Program {
    signature: Signature,
}

impl ScalarUDFImpl for Program {
    fn name(&self) -> &str {
        "program"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, argument_types: &[DataType]) -> Result<DataType> {
        match argument_types {
            [path, argv0, DataType::List(item)]
                if path.is_string() && argv0.is_string() && item.data_type().is_string() =>
            {
                Ok(DataType::Utf8View)
            }
            _ => plan_err!(
                "program takes proc_exepath, proc_exe and proc_args (or a parent's or ancestor's)"
            ),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let paths = texts(&args.args[0], args.number_rows)?;
        let firsts = texts(&args.args[1], args.number_rows)?;
        let lists = args.args[2].to_array(args.number_rows)?;
        let lists = lists.as_list::<i32>();
        let items = cast(lists.values(), &DataType::Utf8View)?;
        let items = items.as_string_view();
        let programs = (0..args.number_rows).map(|row| {
            let range =
                lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            let range = if lists.is_valid(row) { range } else { 0..0 };
            let known = range.filter(|item| items.is_valid(*item));
            let rest = || known.map(|item| items.value(item)).collect();
            program(value(&paths, row), value(&firsts, row), rest)
        });
        Ok(ColumnarValue::Array(Arc::new(StringViewArray::from_iter(
            programs,
        ))))
    }
}

/// The program that an executed file and its arguments come to; NULL when neither is known. Most files are their program: only
/// where one is many, or runs another, its arguments are asked for.
fn program<'a>(
    exepath: Option<&'a str>,
    argv0: Option<&'a str>,
    args: impl FnOnce() -> Vec<&'a str>,
) -> Option<&'a str> {
    let name = base_name(exepath.or(argv0)?);
    if is_loader(name) || is_multi_call(name) {
        return program_behind(name, argv0, &args());
    }
    Some(name)
}

/// The program that a loader or a program of many names runs.
///
/// A loop, for whoever starts a program chooses how many arguments name another: 5,000 fit into what a sensor sends.
fn program_behind<'a>(
    mut name: &'a str,
    argv0: Option<&'a str>,
    args: &[&'a str],
) -> Option<&'a str> {
    let mut called_as = argv0;
    let mut args = args;
    loop {
        if is_loader(name) {
            let (index, loaded) = loaded_program(args)?;
            (name, called_as) = (base_name(loaded), Some(loaded));
            args = &args[index + 1..];
            continue;
        }
        if !is_multi_call(name) {
            return Some(name);
        }
        let applet = called_as.map_or(name, |called| base_name(called.trim_start_matches('-')));
        if !is_multi_call(applet) {
            return Some(applet);
        }
        // Called by its own name, it takes the applet as first argument, and the applet may be itself again.
        let Some((first, rest)) = args.split_first() else {
            return Some(name);
        };
        (called_as, args) = (Some(*first), rest);
    }
}

/// Programs that are many: what they do depends on the name they are called by.
fn is_multi_call(name: &str) -> bool {
    ["busybox", "toybox", "toolbox"]
        .iter()
        .any(|many| name.starts_with(many))
}

/// Dynamic loaders run the program that their argument names.
fn is_loader(name: &str) -> bool {
    name.starts_with("ld-") && name.contains(".so")
        || name.starts_with("ld-musl")
        || name == "ld.so"
}

/// Place and path of the program among a loader's arguments.
fn loaded_program<'a>(args: &[&'a str]) -> Option<(usize, &'a str)> {
    const WITH_VALUE: [&str; 7] = [
        "--library-path",
        "--inhibit-rpath",
        "--audit",
        "--preload",
        "--argv0",
        "--glibc-hwcaps-prepend",
        "--glibc-hwcaps-mask",
    ];
    let mut index = 0;
    while let Some(argument) = args.get(index) {
        if !argument.starts_with("--") {
            return Some((index, argument));
        }
        index += if WITH_VALUE.contains(argument) { 2 } else { 1 };
    }
    None
}

/// The last component, without the mark the kernel puts on removed files.
fn base_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// An argument's values, whatever kind of text they are.
pub fn texts(argument: &ColumnarValue, rows: usize) -> Result<StringViewArray> {
    let array: ArrayRef = argument.to_array(rows)?;
    Ok(cast(&array, &DataType::Utf8View)?.as_string_view().clone())
}

fn value(texts: &StringViewArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_behind_names_is_found() {
        fn check(exepath: &str, argv: &[&str], expected: &str) {
            let exepath = (!exepath.is_empty()).then_some(exepath);
            let found = program(exepath, argv.first().copied(), || {
                argv.get(1..).unwrap_or_default().to_vec()
            });
            assert_eq!(found, Some(expected), "{exepath:?} {argv:?}");
        }
        check("/usr/bin/bash", &["-bash"], "bash");
        check("/bin/busybox", &["sh", "-c", "id"], "sh");
        check("/bin/busybox", &["-sh"], "sh");
        check("/bin/busybox", &["/bin/busybox", "nc", "1.2.3.4"], "nc");
        check("/bin/busybox", &["busybox", "busybox", "ash"], "ash");
        check("/bin/busybox.static", &["busybox"], "busybox.static");
        check(
            "/lib64/ld-linux-x86-64.so.2",
            &["ld.so", "--library-path", "/x", "/bin/sh", "-i"],
            "sh",
        );
        check(
            "/lib/ld-musl-x86_64.so.1",
            &["x", "/bin/busybox", "ash"],
            "ash",
        );
        check("/tmp/dash (deleted)", &["x"], "dash");
        // More than any stack has room for, were each a call.
        let mut many = vec!["busybox"; 1_000_000];
        many.push("ash");
        check("/bin/busybox", &many, "ash");
        let mut many = vec!["ld.so"; 1_000_000];
        many.push("/bin/sh");
        check("/lib64/ld-linux-x86-64.so.2", &many, "sh");
        check("", &["/bin/zsh"], "zsh");
        assert_eq!(program(None, None, Vec::new), None);
        assert_eq!(
            program(Some("/lib64/ld-linux-x86-64.so.2"), None, || vec!["--list"]),
            None
        );
    }

    #[test]
    fn addresses_lie_in_networks() {
        fn check(network: &str, address: &str, expected: bool) {
            let network = Network::parse(network).expect("a network");
            assert_eq!(
                network.holds(address.parse().expect("an address")),
                expected,
                "{address}"
            );
        }
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("0.0.0.0/0", "255.1.2.3", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("::/0", "2001:db8::1", true);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("192.168.1.7/32", "192.168.1.7", true);
        check("192.168.1.7/32", "192.168.1.6", false);
        // The kernel may show an IPv4 peer of an IPv6 socket as a mapped address.
        check("10.0.0.0/8", "::ffff:10.1.1.1", true);
        for broken in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert!(Network::parse(broken).is_none(), "{broken}");
        }
    }
}
