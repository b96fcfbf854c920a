use super::*;

const BOUNDLESS: Bound = Bound { usd: None, tokens: None };

#[test]
fn what_is_not_known_counts_in_full() {
    let reserved = Amount { usd: "0.5".parse().unwrap(), tokens: 900, requests: 1 };
    let known = Spent {
        cost: Some("0.1"),
        cost_source: Some("computed"),
        tokens: Some(20),
        ..Spent::default()
    };
    let usd = |spent: Spent| spent.counted(reserved, BOUNDLESS).usd.to_string();
    assert_eq!(usd(known), "0.1");
    assert_eq!(known.counted(reserved, BOUNDLESS).tokens, 20);
    let guessed = Spent { cost_source: Some("incomplete"), is_estimate: true, ..known };
    assert_eq!(usd(guessed), "0.5");
    assert_eq!(guessed.counted(reserved, BOUNDLESS).tokens, 900);
    assert_eq!(usd(Spent { cost: Some("0.7"), ..guessed }), "0.7");
    assert_eq!(usd(Spent::default()), "0.5");
    let refused = Spent { is_free_of_charge: true, ..Spent::default() };
    assert_eq!(refused.counted(reserved, BOUNDLESS), Amount { requests: 1, ..Amount::default() });
    let unsent = Spent { is_unsent: true, ..refused };
    assert_eq!(unsent.counted(reserved, BOUNDLESS), Amount::default());
}

fn budget(limit_usd: Option<&str>) -> Budget {
    Budget {
        id: Uuid::nil(),
        scope: Scope::default(),
        keys: Keys::All,
        period: Period::Month,
        limit_usd: limit_usd.map(str::to_owned),
        limit_tokens: None,
        limit_requests: None,
        blocks: true,
    }
}

fn size(output_tokens: Option<i64>) -> Size {
    Size { input_tokens: 100, output_tokens, hidden_output: 0, n: 1, unbounded: None }
}

fn prices() -> Result<Dearest, NoBound> {
    Dearest::of(Some(r#"{"input":10,"output":100}"#))
}

fn used(usd: &str) -> Amount {
    Amount { usd: usd.parse().unwrap(), tokens: 0, requests: 0 }
}

#[test]
fn periods_begin_where_utc_says() {
    let at = |text: &str| {
        // Seconds since 1970 of moments that `date -u -d` gave.
        text.parse::<i64>().unwrap() * 1_000_000
    };
    // 2026-11-24 05:29:12, a Tuesday.
    let now = at("1795498152");
    assert_eq!(Period::Hour.start(now), at("1795496400"));
    assert_eq!(Period::Day.start(now), at("1795478400"));
    assert_eq!(Period::Week.start(now), at("1795392000"));
    assert_eq!(Period::Month.start(now), at("1793491200"));
    assert_eq!(Period::Total.start(now), 0);
    // 2024-02-29 23:59:59 and the second after it.
    assert_eq!(Period::Month.start(at("1709251199")), at("1706745600"));
    assert_eq!(Period::Month.start(at("1709251200")), at("1709251200"));
}

#[test]
fn a_scope_names_a_model_by_its_id_or_its_last_part() {
    let scope = |model: &str| Scope { model: Some(model.to_owned()), ..Scope::default() };
    let call = |user: &'static str, model: &'static str| Subject {
        user,
        provider: Uuid::nil(),
        model,
        is_platform_key: true,
        labels: None,
    };
    assert!(scope("openai/gpt-4o").applies(&call("u", "openai/gpt-4o")));
    assert!(scope("gpt-4o").applies(&call("u", "openai/gpt-4o")));
    assert!(!scope("gpt-4").applies(&call("u", "openai/gpt-4o")));
    assert!(scope("gpt-4").applies(&call("u", model::UNLISTED)));
    let own = Scope { user_id: Some("a".into()), model: None, ..scope("") };
    assert!(own.applies(&call("a", "m")) && !own.applies(&call("b", "m")));
}

#[test]
fn a_budget_counts_the_keys_whose_money_it_protects() {
    for (keys, platform, own) in
        [(Keys::Platform, true, false), (Keys::Own, false, true), (Keys::All, true, true)]
    {
        let budget = Budget { keys, ..budget(Some("1")) };
        for (is_platform_key, expected) in [(true, platform), (false, own)] {
            let call = Subject {
                user: "u",
                provider: Uuid::nil(),
                model: "m",
                is_platform_key,
                labels: None,
            };
            assert_eq!(budget.applies(&call), expected, "{keys:?}");
        }
        assert_eq!(Keys::parse(keys.as_str()), Some(keys));
    }
    assert_eq!(Keys::parse("ALL"), None);
}

#[test]
fn what_a_provider_says_beyond_the_bound_counts_as_the_bound() {
    let reserved = Amount { usd: "0.5".parse().unwrap(), tokens: 900, requests: 1 };
    let bound = Bound { usd: Some(reserved.usd), tokens: Some(900) };
    let lie = Spent {
        cost: Some("1000000000000000000000000000000"),
        cost_source: Some("upstream"),
        tokens: Some(i64::from(i32::MAX)),
        ..Spent::default()
    };
    assert_eq!(lie.counted(reserved, bound), reserved);
    assert_eq!(lie.tokens_used(bound), Some(900));
    // Where the request has no bound, there is one for all.
    let most = Amount { usd: MOST_USD, tokens: MOST_TOKENS, requests: 1 };
    assert_eq!(lie.counted(Amount::default(), BOUNDLESS), most);
    let guess = Spent { is_estimate: true, cost_source: Some("incomplete"), ..lie };
    assert_eq!(guess.counted(reserved, bound), reserved);
    // At the bound it is believed.
    let true_word = Spent { cost: Some("0.5"), tokens: Some(900), ..lie };
    assert_eq!(true_word.counted(Amount::default(), bound), reserved);
}

#[test]
fn what_cannot_be_read_or_computed_is_refused() {
    let fine = budget(Some("5"));
    for limit in ["NaN", "", "much", "Infinity"] {
        let unreadable = Budget { blocks: false, ..budget(Some(limit)) };
        let all = [(&fine, used("0")), (&unreadable, used("0"))];
        let refused = plan(&all, &size(Some(1)), prices());
        assert_eq!(refused, Err(Refused::Unreadable { index: 1 }), "{limit}");
    }
    let endless = Size { n: i64::MAX, ..size(Some(i64::MAX)) };
    let refused = plan(&[(&fine, used("0"))], &endless, prices());
    assert!(matches!(refused, Err(Refused::NoBound(_))), "{refused:?}");
    let tokens = Budget { limit_usd: None, limit_tokens: Some(i64::MAX), ..fine.clone() };
    let refused = plan(&[(&tokens, used("0"))], &endless, prices());
    assert!(matches!(refused, Err(Refused::NoBound(_))), "{refused:?}");
    // A warning blocks nothing, and does not count what does not exist as 0.
    let warns = Budget { blocks: false, ..fine.clone() };
    let plan = plan(&[(&warns, used("0"))], &endless, prices()).unwrap();
    assert_eq!((plan.is_priced, plan.bound), (false, BOUNDLESS));
    assert_eq!(plan.amount.tokens, i64::from(i32::MAX));
}

#[test]
fn what_is_left_and_used_does_not_overflow() {
    let most = Amount { usd: Decimal::MAX, tokens: i64::MAX, requests: i64::MAX };
    let least = Amount { usd: Decimal::MIN, tokens: i64::MIN, requests: i64::MIN };
    let budget = Budget {
        limit_tokens: Some(i64::MAX),
        limit_requests: Some(i64::MAX),
        ..budget(Some("999999999999"))
    };
    for used in [most, least, Amount::default()] {
        let _ = (budget.left(used), budget.percent(used), used.plus(most).minus(least));
        let _ = plan(&[(&budget, used)], &size(None), prices());
    }
    assert_eq!(budget.percent(most), i64::MAX);
}

#[test]
fn what_fits_is_set_aside_and_what_does_not_is_refused() {
    // 100 x 10 + 10 x 100 USD per million.
    let budget = budget(Some("0.01"));
    let plan_with = |spent: &str| plan(&[(&budget, used(spent))], &size(Some(10)), prices());
    let fits = plan_with("0.008").unwrap();
    assert_eq!((fits.amount.usd.normalize().to_string().as_str(), fits.cap), ("0.002", None));
    assert!(plan_with("0.008000001").is_err());
    let warns = Budget { blocks: false, ..budget.clone() };
    assert!(plan(&[(&warns, used("99"))], &size(Some(10)), prices()).is_ok());
}

#[test]
fn the_budget_caps_an_answer_that_nothing_else_bounds() {
    let budget = budget(Some("0.01"));
    let plan = plan(&[(&budget, used("0.004"))], &size(None), prices()).unwrap();
    // 0.006 less 0.001 for the prompt, at 0.0001 each.
    assert_eq!((plan.cap, plan.amount.usd.normalize().to_string()), (Some(50), "0.006".into()));
    let nothing = super::plan(&[(&budget, used("0.0091"))], &size(None), prices());
    assert!(matches!(nothing, Err(Refused::Exceeded { unit: Unit::Usd, .. })), "{nothing:?}");
}

#[test]
fn without_a_bound_a_budget_in_usd_refuses() {
    let budget = budget(Some("5"));
    let images = Size { unbounded: Some("image_url".into()), ..size(Some(1)) };
    let all = [(&budget, used("0"))];
    assert!(matches!(plan(&all, &images, prices()), Err(Refused::NoBound(_))));
    let unpriced = plan(&all, &size(Some(1)), Dearest::of(None));
    assert_eq!(unpriced, Err(Refused::NoBound(NoBound::Unpriced)));
    let requests = Budget { limit_usd: None, limit_requests: Some(2), ..budget.clone() };
    let two = Amount { requests: 2, ..Amount::default() };
    assert!(plan(&[(&requests, Amount::default())], &images, Dearest::of(None)).is_ok());
    assert!(plan(&[(&requests, two)], &images, Dearest::of(None)).is_err());
}

#[test]
fn percentages_are_those_of_the_nearest_limit() {
    let both = Budget { limit_requests: Some(10), ..budget(Some("1")) };
    let spent = Amount { usd: "0.5".parse().unwrap(), tokens: 0, requests: 8 };
    assert_eq!(both.percent(spent), 80);
    assert_eq!(budget(Some("0")).percent(Amount::default()), 100);
}

#[test]
fn a_rule_about_a_key_or_a_tag_means_the_calls_that_have_it() {
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let labels = |key: Option<Uuid>, tags: &[&str]| {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Labels::of(key, &tags)
    };
    let calls = [
        labels(None, &[]),
        labels(Some(one), &[]),
        labels(Some(other), &["a"]),
        labels(None, &["b", "a"]),
        labels(Some(one), &["A", "ab"]),
    ];
    let of_key = Scope { gateway_key: Some(one), ..Scope::default() };
    let of_tag = Scope { tag: Some("a".into()), ..Scope::default() };
    for (scope, expected) in [
        (&Scope::default(), [true; 5]),
        (&of_key, [false, true, false, false, true]),
        (&of_tag, [false, false, true, true, false]),
    ] {
        let rules = Rules {
            budgets: vec![Budget { scope: scope.clone(), ..budget(Some("1")) }],
            ..Rules::default()
        };
        let rules = Arc::new(rules);
        for (labels, expected) in calls.iter().zip(expected) {
            let labels = labels.as_deref();
            let call = Subject {
                user: "u",
                provider: Uuid::nil(),
                model: "m",
                is_platform_key: true,
                labels,
            };
            assert_eq!(scope.applies(&call), expected, "{scope:?} {labels:?}");
            assert_eq!(Rules::about(&rules, labels).budgets.len(), usize::from(expected));
        }
    }
}
