// The hardware unit: selection, levels, residency and recall's search for a controller's bus (docs/unit.md).
//
// E experts of a layer (a power of two from 32), K chosen ones, LAYERS layers; signatures of WORDS words, CHOICES of a
// token, TOKENS remembered (a power of two), PLACES kept.
module cptr_unit #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned LAYERS = 1,
  parameter int unsigned DIVIDERS = 8,
  parameter int unsigned WORDS = 4,
  parameter int unsigned CHOICES = 512,
  parameter int unsigned TOKENS = 1024,
  parameter int unsigned PLACES = 64,
  parameter int unsigned SIGMOID = 1
) (
  input  logic        clk,
  input  logic        rst_n,
  input  logic        bus_request,
  input  logic        bus_write,
  input  logic [7:0]  bus_address,
  input  logic [31:0] bus_write_data,
  output logic [31:0] bus_read_data,
  // Logits or ids.
  input  logic        in_valid,
  output logic        in_ready,
  input  logic        in_last,
  input  logic [31:0] in_data,
  // Answers.
  output logic        out_valid,
  input  logic        out_ready,
  output logic        out_last,
  output logic [31:0] out_data,
  output logic        busy
);
  localparam int unsigned ID = $clog2(E);
  localparam int unsigned RANK = (K > 1) ? $clog2(K) : 1;
  localparam int unsigned LEVEL = $clog2(LAYERS * E);
  localparam int unsigned SETS = LAYERS * (E / 32);
  localparam int unsigned SET = (SETS > 1) ? $clog2(SETS) : 1;
  localparam int unsigned STATE = $clog2(16 * LAYERS);
  localparam int unsigned SLOT = $clog2(TOKENS);
  localparam int unsigned WORD = $clog2(WORDS);
  localparam int unsigned CHOICE = $clog2(CHOICES);
  localparam int unsigned MEAN = $clog2(32 * WORDS);
  localparam int unsigned PLACE = $clog2(PLACES);

  // Registers.
  logic ring, abort, lost_lock, error_bound, of_chosen, sigmoid, scored, two_best, recall_changed, window_read;
  logic [3:0] open, size_log2;
  logic [7:0] window_write;
  logic [31:0] command, cycles, snr, angle, eps_mass, eps_error, process_noise, reopened, fast_gain, phase;
  logic [31:0] window_address, window_data, window_word, recall_found;
  wire [2:0] space = window_address[30:28];
  logic [1:0] lock;
  logic [11:0] errors_now, errors, error, recall_layers, next_layer;
  logic [ID:0] experts, capacity;
  logic [6:0] k, keep_top, recall_k;
  logic [15:0] acquire;
  logic [16:0] recall_tokens;
  logic [8:0] recall_places;
  unit_registers #(
    .E(E), .K(K), .LAYERS(LAYERS), .WORDS(WORDS), .CHOICES(CHOICES), .TOKENS(TOKENS), .PLACES(PLACES),
    .SIGMOID(SIGMOID)
  ) registers (.*);
  localparam int unsigned BUSY = 0, SHORT = 4, LONG = 5, ABORTED = 6, ORDER = 7, UNKNOWN = 8, ID_ERROR = 9;

  wire [15:0] layer = command[31:16];
  wire selects = command[3:0] == 4'd1;
  wire applies = command[4];
  wire learns = command[5];
  wire observes = command[6];

  // Whether it runs is a bit of its own.
  typedef enum logic [5:0] {
    IDLE = 6'd0, CHECK = 6'd32, SCALES, SCALES_1, SCALES_2, LOGITS, CHOOSE, ANSWER, IDS, NEXT_ID, HOLD_ID, EARLIER_ID,
    COMPARE_ID, LEARN, LEARNING, OBSERVE, OBSERVE_1, END, SIGN, SEARCH, HEADER, KEYS, WIPE, WIPING, FORGET, FORGETTING, DRAIN
  } state_t;
  state_t state;
  wire running = state[5];

  // The stream. A logit and its expert, a cycle later with the word of the resident set, and then with its bit.
  logic [ID:0] count;
  wire takes_logits = state == LOGITS;
  wire taken = in_valid & in_ready;
  wire scan = taken & takes_logits;
  logic [ID:0] last_expert;
  wire complete = count == last_expert;
  assign in_ready = takes_logits | state == IDS | state == DRAIN;
  logic scan_1, scan_2, last_1, last_2, resident_2;
  logic [31:0] logit_1, logit_2, set_word;
  logic [ID-1:0] expert_1, expert_2;
  logic [ID:0] residents;
  // What a scored choice is handed instead, when all of its logits have come.
  logic given, given_2, given_last, given_resident;
  logic [RANK-1:0] given_order, order_2;
  logic [31:0] given_logit, bias;
  logic [ID-1:0] given_expert;
  always_ff @(posedge clk) begin
    {logit_2, logit_1} <= {given ? given_logit : logit_1, in_data};
    {expert_2, expert_1} <= {given ? given_expert : expert_1, count[ID-1:0]};
    {last_2, last_1} <= {given ? given_last : last_1, in_last};
    order_2 <= given_order;
    last_expert <= experts - 1'b1;
    resident_2 <= given ? given_resident : set_word[expert_1[4:0]];
    if (state == CHECK) residents <= '0;
    else if (scan_2 && resident_2) residents <= residents + 1'b1;
  end

  // Selection.
  logic score_ready, score_ask, score_valid;
  logic [31:0] score_logit, score;
  logic start_select, cancel, chosen, weighed, answered;
  logic [RANK:0] stand_ins;
  logic [K*ID-1:0] chosen_ids, wanted_ids, victim_ids;
  logic [K-1:0] replaced, missing, victim_full;
  logic [K*32-1:0] weights;
  unit_select #(.E(E), .K(K), .DIVIDERS(DIVIDERS), .SIGMOID(SIGMOID)) selection (
    .clk, .rst_n, .start(start_select), .cancel, .experts, .k(k[RANK:0]), .keep_top, .eps_mass, .eps_error,
    .error_bound,
    .of_chosen, .sigmoid, .scored, .in_valid(scored ? given_2 : scan_2), .in_last(last_2), .in_order(order_2),
    .in_logit(logit_2), .in_expert(expert_2),
    .in_resident(resident_2), .score_ready, .score_ask, .score_logit, .score_valid, .score, .chosen, .weighed, .stand_ins, .chosen_ids, .replaced, .missing, .wanted_ids, .weights
  );

  if (SIGMOID != 0) begin : with_scores
    unit_scores #(.E(E), .K(K), .LAYERS(LAYERS)) scores (
      .clk, .rst_n, .start(start_select), .cancel(cancel | ~scored), .experts, .k(k[RANK:0]), .open, .size_log2,
      .two_best, .base(LEVEL'(32'(layer) * E)), .in_valid(scan_2 & scored), .in_last(last_2), .in_logit(logit_2),
      .in_expert(expert_2), .in_resident(resident_2), .score_ready, .ask(score_ask), .ask_logit(score_logit),
      .score_valid, .score, .out_valid(given), .out_last(given_last), .out_order(given_order), .out_logit(given_logit),
      .out_expert(given_expert), .out_resident(given_resident), .window_read(window_read & space == 3'd7),
      .window_write(window_write[7]), .window_address(window_address[LEVEL-1:0]), .window_data, .bias
    );
  end else begin : without_scores
    assign {given, given_last, given_order, given_logit, given_expert, given_resident} = '0;
    assign {score_ask, score_logit, bias} = '0;
  end

  // The answer, and who comes and goes.
  logic answering, answer_valid, answer_last, set_read_answer, set_write_answer;
  logic [ID-1:0] set_expert;
  logic [31:0] answer_data, set_bits;
  unit_answer #(.E(E), .K(K)) answer (
    .clk, .rst_n, .start(state == CHOOSE & chosen), .apply(applies), .layer, .k(k[RANK:0]), .capacity, .residents,
    .stand_ins, .chosen_ids, .wanted_ids, .replaced, .missing, .weighed, .weights, .victim_full, .victim_ids,
    .done(answered),
    .set_read(set_read_answer), .set_write(set_write_answer), .set_expert, .set_bits, .set_word,
    .out_valid(answer_valid), .out_ready(out_ready & answering), .out_data(answer_data), .out_last(answer_last)
  );

  // The nearest places, after a token's end.
  logic [PLACE:0] found, listed;
  logic [PLACES*32-1:0] nearest;
  logic [31:0] nearest_key;
  unit_pick #(.N(PLACES), .WIDTH(32)) pick_key (
    .entries(nearest), .index(listed[PLACE-1:0]), .entry(nearest_key)
  );
  assign out_valid = state == ANSWER ? answer_valid : state == HEADER || state == KEYS;
  assign out_data = state == ANSWER ? answer_data : state == HEADER ? 32'(found) : nearest_key;
  assign out_last = state == ANSWER ? answer_last : state == HEADER ? found == '0 : listed + 1'b1 == found;

  // The resident sets.
  wire [SET-1:0] set_base = SET'(32'(layer) * (E / 32));
  // A word is there the cycle after it was asked for, and so is where it comes from.
  logic [7:0] shown;
  always_ff @(posedge clk) shown <= 8'd1 << space;
  logic [ID:0] wiped;
  logic set_read, set_write;
  logic [SET-1:0] set_read_at, set_write_at;
  logic [31:0] set_data;
  assign set_read = (scan & count[4:0] == '0) | set_read_answer | (window_read & space == 3'd2);
  wire [ID:0] set_id = scan ? count : {1'b0, set_expert};
  assign set_read_at = window_read ? window_address[SET-1:0] : set_base | SET'(set_id >> 5);
  assign set_write = set_write_answer | window_write[2]
      | (state == WIPING & wiped[4:0] == '0 & ~wiped[ID]);
  assign set_write_at = state == WIPING ? set_base | SET'(wiped >> 5)
                      : set_write_answer ? set_base | SET'(set_expert >> 5) : window_address[SET-1:0];
  assign set_data = state == WIPING ? 32'd0 : set_write_answer ? set_bits : window_data;
  unit_ram #(.WIDTH(32), .DEPTH(SETS)) sets (
    .clk, .read(set_read), .read_address(set_read_at), .read_data(set_word),
    .write(set_write), .write_address(set_write_at), .write_data(set_data)
  );

  // States of the layers.
  logic state_read, state_write, tracker_reads, tracker_writes;
  logic [3:0] state_word;
  logic [31:0] state_data, state_stored, slow_scale, fast_scale;
  wire [STATE-1:0] state_base = STATE'({layer, 4'd0});
  wire scales = state == SCALES | state == SCALES_1;
  assign state_read = tracker_reads | scales | (window_read & space == 3'd1);
  assign state_write = tracker_writes | (state == WIPING & wiped < (ID + 1)'(16)) | window_write[1];
  logic [STATE-1:0] state_read_at, state_write_at;
  always_comb begin
    state_read_at = state_base | STATE'(state_word);
    if (scales) state_read_at = state_base | (state == SCALES ? STATE'(9) : STATE'(10));
    if (window_read) state_read_at = window_address[STATE-1:0];
    state_write_at = state_base | STATE'(state_word);
    if (state == WIPING) state_write_at = state_base | STATE'(wiped[3:0]);
    else if (window_write[1]) state_write_at = window_address[STATE-1:0];
  end
  unit_ram #(.WIDTH(32), .DEPTH(16 * LAYERS)) states (
    .clk, .read(state_read), .read_address(state_read_at), .read_data(state_stored),
    .write(state_write), .write_address(state_write_at),
    .write_data(state == WIPING ? 32'd0 : window_write[1] ? window_data : state_data)
  );
  always_ff @(posedge clk) begin
    if (state == SCALES_1) slow_scale <= ~state_stored;
    if (state == SCALES_2) fast_scale <= ~state_stored;
  end

  // What a token wanted: its own choice, or a list.
  logic [5:0] wanted_index, list_index;
  logic [6:0] list_count, wanted_count, compared;
  logic [6:0] compared_to;
  logic [15:0] list_id, wanted_id, current;
  logic [ID-1:0] picked, own_id;
  assign wanted_count = selects ? 7'(k) : list_count;
  unit_ram #(.WIDTH(16), .DEPTH(64)) list (
    .clk, .read(1'b1), .read_address(list_index), .read_data(list_id),
    .write(state == IDS & taken & ~in_data[16] & ~list_count[6]), .write_address(list_count[5:0]),
    .write_data(in_data[15:0])
  );
  unit_pick #(.N(K), .WIDTH(ID)) pick_wanted (.entries(wanted_ids), .index(list_index[RANK-1:0]), .entry(picked));
  always_ff @(posedge clk) own_id <= picked;
  assign wanted_id = selects ? 16'(own_id) : list_id;
  logic [6:0] put_rank;
  always_comb begin
    list_index = wanted_index;
    if (state == OBSERVE || state == OBSERVE_1) list_index = put_rank[5:0];
    if (state == NEXT_ID) list_index = compared_to[5:0];
    if (state == EARLIER_ID) list_index = compared[5:0];
  end

  // Levels and tracker.
  logic level_read, level_raise, level_sweep, level_busy, learnt;
  logic [ID-1:0] level_expert;
  logic [5:0] slow_shift, fast_shift;
  logic [31:0] slow_raise, fast_raise, level_slow;
  logic [63:0] level_stored;
  unit_levels #(.E(E), .K(K), .LAYERS(LAYERS)) levels (
    .clk, .rst_n, .base(LEVEL'(32'(layer) * E)), .clear_scan(start_select), .scan, .scan_expert(count[ID-1:0]),
    .scan_resident(resident_2), .slow_scale, .fast_scale, .victim_full, .victim_ids,
    .read(level_read), .raise(level_raise), .sweep(level_sweep), .wipe(state == WIPE), .expert(level_expert),
    .slow_shift, .fast_shift, .slow_raise, .fast_raise, .busy(level_busy), .slow(level_slow),
    .window_read(window_read & space == 3'd0), .window_write(window_write[0]),
    .window_address(window_address[LEVEL:0]), .window_data, .stored(level_stored)
  );
  unit_tracker #(.E(E)) tracker (
    .clk, .rst_n, .start(state == LEARN), .done(learnt), .process_noise, .reopened, .fast_gain,
    .proportional_shift(phase[4:0]), .integral_shift(phase[12:8]), .acquire_tokens(acquire),
    .slack_16ths(phase[23:16]), .threshold(phase[31:24]), .experts, .wanted_count, .wanted_index, .wanted_id,
    .state_read(tracker_reads), .state_write(tracker_writes), .state_word, .state_data, .state_stored,
    .level_read, .level_raise, .level_sweep, .level_expert, .slow_shift, .fast_shift, .slow_raise, .fast_raise,
    .level_busy, .level_slow, .snr, .angle, .lock, .lost_lock
  );

  // Recall.
  logic at_tokens, signed_now, searched, recall_known, both_done;
  logic [CHOICE:0] row;
  logic [32*WORDS-1:0] signature;
  logic [31:0] mean, tokens, place_word, reach;
  logic [SLOT-1:0] slot, remembered;
  unit_signature #(.WORDS(WORDS), .CHOICES(CHOICES), .ID(ID)) signatures (
    .clk, .rst_n, .layers(recall_layers), .k(recall_k), .put(state == OBSERVE_1),
    .put_at(CHOICE'(row + (CHOICE + 1)'(put_rank))), .put_none(put_rank >= wanted_count),
    .put_expert(wanted_id[ID-1:0]), .clear(state == FORGET), .start(state == END & ~wrong_at_end), .done(signed_now),
    .signature, .tokens,
    .window_read(window_read & space == 3'd3), .window_write(window_write[3]),
    .window_address(window_address[MEAN-1:0]), .window_data, .mean,
    .tokens_write(window_write[6] & at_tokens)
  );
  unit_search #(.WORDS(WORDS), .TOKENS(TOKENS), .PLACES(PLACES)) search (
    .clk, .rst_n, .slots(recall_tokens[SLOT:0]), .candidates(recall_places[PLACE:0]), .clear(state == FORGET),
    .start(state == SIGN & signed_now), .done(searched), .now(signature), .slot, .complete(remembered), .reach, .found,
    .nearest, .window_read(window_read & (space == 3'd4 | space == 3'd5)),
    .window_write(window_write[6:4]), .window_past(shown[5]),
    .window_address(window_address[SLOT+WORD-1:0]), .window_data, .window_word(place_word)
  );
  assign recall_found = 32'(found);

  // What the window shows.
  logic [31:0] recall_word;
  always_comb begin
    case (window_address[1:0])
      2'd0: recall_word = 32'(slot);
      2'd1: recall_word = 32'(remembered);
      2'd2: recall_word = reach;
      default: recall_word = tokens;
    endcase
    window_word = ((window_address[0] ? level_stored[31:0] : level_stored[63:32]) & {32{shown[0]}})
                | (state_stored & {32{shown[1]}}) | (set_word & {32{shown[2]}}) | (mean & {32{shown[3]}})
                | (place_word & {32{shown[4] | shown[5]}}) | (recall_word & {32{shown[6]}}) | (bias & {32{shown[7]}});
  end

  // Which layers have begun; nothing else of a layer survives a reset, in the middle of whatever it comes.
  logic [LAYERS-1:0] begun;
  logic layer_begun;
  unit_pick #(.N(LAYERS), .WIDTH(1)) pick_begun (
    .entries(begun), .index(layer[(LAYERS>1?$clog2(LAYERS):1)-1:0]), .entry(layer_begun)
  );
  logic wrong_layer, wrong_recall, wrong_order, too_many, wrong_end;
  always_ff @(posedge clk) begin
    wrong_layer <= (selects | learns) & ~layer_begun;
    wrong_recall <= observes & ~recall_known;
    wrong_order <= observes & (12'(layer) != next_layer | layer >= 16'(recall_layers));
    too_many <= observes & selects & k > recall_k;
    wrong_end <= next_layer != recall_layers;
  end
  wire takes_ids = command[3:0] == 4'd1 | command[3:0] == 4'd2;
  wire wrong_request = wrong_layer | wrong_recall | wrong_order | (too_many & recall_known);
  wire wrong_at_end = ~recall_known | wrong_end;
  wire wrong_id = list_count > recall_k | 32'(list_id) >= 32'(experts);
  wire may_abort = state == LOGITS | state == IDS | state == DRAIN;
  wire early = taken & in_last & takes_logits & ~complete;
  wire late = taken & ~in_last & ((takes_logits & complete) | (state == IDS & list_count[6]));
  always_ff @(posedge clk) begin
    start_select <= state == SCALES_1;
    answering <= state == ANSWER;
    at_tokens <= window_address[1:0] == 2'd3;
    cancel <= (takes_logits & (early | late)) | (abort & may_abort);
  end

  always_comb begin
    errors_now = '0;
    errors_now[BUSY] = abort & ~may_abort;
    errors_now[ABORTED] = abort & may_abort;
    errors_now[SHORT] = early;
    errors_now[LONG] = late;
    case (state)
      CHECK: if (takes_ids) begin
        errors_now[UNKNOWN] = wrong_layer | wrong_recall;
        errors_now[ORDER] = wrong_order & ~wrong_recall;
        errors_now[ID_ERROR] = too_many & recall_known;
      end
      END: begin
        errors_now[UNKNOWN] = ~recall_known;
        errors_now[ORDER] = recall_known & wrong_end;
      end
      HOLD_ID: errors_now[ID_ERROR] = wrong_id;
      COMPARE_ID: errors_now[ID_ERROR] = list_id == current;
      default: ;
    endcase
  end

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {count, list_count, compared, compared_to, current, put_rank, row, next_layer, wiped, listed} <= '0;
      {begun, recall_known, both_done, cycles} <= '0;
      {scan_2, scan_1, given_2} <= '0;
      errors <= '0;
    end else begin
      errors <= errors_now;
      {scan_2, scan_1} <= {scan_1, scan};
      given_2 <= given;
      if (state == CHECK) cycles <= 32'd1;
      else if (running) cycles <= cycles + 32'd1;
      if (recall_changed) recall_known <= 1'b0;
      if (abort && may_abort) begin
        state <= IDLE;
      end else begin
        case (state)
          IDLE: if (ring) state <= CHECK;
          CHECK: begin
            {count, list_count, compared, compared_to, put_rank, wiped, listed} <= '0;
            case (command[3:0])
              4'd1: state <= wrong_request ? IDLE : SCALES;
              4'd2: state <= wrong_request ? IDLE : IDS;
              4'd3: state <= END;
              4'd4: state <= WIPE;
              default: state <= FORGET;
            endcase
          end
          SCALES: state <= SCALES_1;
          SCALES_1: state <= SCALES_2;
          SCALES_2: state <= LOGITS;
          LOGITS: if (taken) begin
            count <= count + 1'b1;
            if (early) state <= IDLE;
            else if (late) state <= DRAIN;
            else if (in_last) state <= CHOOSE;
          end
          DRAIN: if (taken && in_last) state <= IDLE;
          CHOOSE: if (chosen) state <= ANSWER;
          ANSWER: if (answered) state <= learns ? LEARN : observes ? OBSERVE : IDLE;
          IDS: if (taken) begin
            if (!in_data[16] && !list_count[6]) list_count <= list_count + 7'd1;
            if (late) state <= DRAIN;
            else if (in_last) state <= observes ? NEXT_ID : learns ? LEARN : IDLE;
          end
          // Every id of a list is held against those before it.
          NEXT_ID: if (compared_to == list_count) state <= learns ? LEARN : OBSERVE;
          else state <= HOLD_ID;
          HOLD_ID: begin
            current <= list_id;
            compared <= '0;
            state <= wrong_id ? IDLE : EARLIER_ID;
          end
          EARLIER_ID: if (compared == compared_to) begin
            compared_to <= compared_to + 7'd1;
            state <= NEXT_ID;
          end else begin
            state <= COMPARE_ID;
          end
          COMPARE_ID: begin
            compared <= compared + 7'd1;
            state <= list_id == current ? IDLE : EARLIER_ID;
          end
          LEARN: state <= LEARNING;
          LEARNING: if (learnt) state <= observes ? OBSERVE : IDLE;
          OBSERVE: state <= OBSERVE_1;
          OBSERVE_1: begin
            put_rank <= put_rank + 7'd1;
            state <= OBSERVE;
            if (put_rank + 7'd1 == recall_k) begin
              state <= IDLE;
              row <= row + (CHOICE + 1)'(recall_k);
              next_layer <= next_layer + 12'd1;
            end
          end
          END: state <= wrong_at_end ? IDLE : SIGN;
          SIGN: if (signed_now) state <= SEARCH;
          SEARCH: if (searched) begin
            state <= HEADER;
            row <= '0;
            next_layer <= '0;
          end
          HEADER: if (out_ready) state <= found == '0 ? IDLE : KEYS;
          KEYS: if (out_ready) begin
            listed <= listed + 1'b1;
            if (out_last) state <= IDLE;
          end
          WIPE: state <= WIPING;
          WIPING: begin
            wiped <= wiped + 1'b1;
            if (wiped[ID]) begin
              state <= IDLE;
              begun <= begun | (LAYERS'(1) << layer);
            end
          end
          FORGET: begin
            state <= FORGETTING;
            both_done <= 1'b0;
            row <= '0;
            next_layer <= '0;
          end
          default: begin
            if (signed_now || searched) both_done <= 1'b1;
            if (both_done && (signed_now || searched) || (signed_now && searched)) begin
              state <= IDLE;
              recall_known <= 1'b1;
            end
          end
        endcase
      end
    end
  end
endmodule
